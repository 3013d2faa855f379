#include "report/page_impl.h"

#include <string.h>

#include "quant/methods.h"
#include "report/html.h"
#include "report/terminal.h"

void qs_page_heading(const qs_page *page, const char *id, const char *title, const char *text, const char *table)
{
    (void)fprintf(page->stream, "<h2 id=\"%s\">", id);
    qs_html_text(page->stream, title);
    (void)fprintf(page->stream, "</h2>\n<p class=\"small\">");
    qs_html_text(page->stream, text);
    if (table != NULL) (void)fprintf(page->stream, " Numbers: <a href=\"%s\">%s</a>.", table, table);
    (void)fprintf(page->stream, "</p>\n");
}

const char *qs_page_kind(const char *method)
{
    static const char *const kinds[] = {"m0", "m1", "m2", "m3", "m4", "m5", "m6", "m7"};
    enum { N_KINDS = sizeof kinds / sizeof *kinds };
    for (int i = 0; qs_methods[i] != NULL; i++)
        if (strcmp(qs_methods[i]->name, method) == 0) return kinds[i % N_KINDS];
    return strcmp(method, "fp") == 0 ? "fp" : kinds[N_KINDS - 1];
}

static void put_box(const qs_page *page, const char *kind, const char *text)
{
    (void)fprintf(page->stream, "<p class=\"box %s\">", kind);
    qs_html_text(page->stream, text);
    (void)fprintf(page->stream, "</p>\n");
}

/* When none passes: the configuration that fails the fewest gates, and which. */
static void put_nearest(const qs_page *page)
{
    const qs_sweep *sweep = page->sweep;
    const qs_sweep_config *nearest = NULL;
    qs_sentence text = {0};
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_sweep_config *config = &sweep->configs[i];
        int64_t n = config->judgement.n_by_verdict[QS_VERDICT_FAIL];
        if (config->row.reference || n == 0) continue;
        if (nearest == NULL || n < nearest->judgement.n_by_verdict[QS_VERDICT_FAIL]) nearest = config;
    }
    if (nearest == NULL) return;
    qs_sentence_add(&text, "Nearest to passing: ");
    qs_terminal_failure(&text, nearest);
    (void)fputs("<p>", page->stream);
    qs_html_text(page->stream, text.text);
    (void)fputs(" <a href=\"#why\">What is wrong, and what to run next</a>.</p>\n", page->stream);
}

static void put_headline(const qs_page *page)
{
    qs_sentence passing = {0};
    const qs_selection *selection = page->selection;
    bool ships = selection->chosen >= 0;
    (void)fprintf(page->stream, "<p class=\"headline\">%s", ships ? "Ship " : "Ship none of these.");
    if (ships) {
        qs_html_text(page->stream, selection->points[selection->chosen].config->row.id);
        (void)fputs(".", page->stream);
    }
    (void)fputs("</p>\n", page->stream);
    put_box(page, ships ? "pass" : "fail", selection->reason.text);
    if (!ships) put_nearest(page);
    qs_terminal_headline(&passing, page->sweep);
    (void)fputs("<p>", page->stream);
    qs_html_text(page->stream, passing.text);
    (void)fputs("</p>\n", page->stream);
}

/* What makes the numbers mean less than they seem to. */
static void put_warnings(const qs_page *page, bool trusted)
{
    const qs_sweep *sweep = page->sweep;
    qs_sentence text = {0};
    if (!trusted) put_box(page, "fail", "A negative control failed (below): no verdict of this sweep can be trusted.");
    if (sweep->configs[0].row.frame.lattice)
        put_box(page, "warn",
                "The reference's weights sit on a low-bit lattice already: every degradation below is understated, "
                "since the loss of that first quantisation is not in it.");
    if (sweep->reference == NULL) put_box(page, "warn", "The reference (fp) is not among the files.");
    if (!qs_sweep_same_device(sweep))
        put_box(page, "warn",
                "Configurations were timed on different devices or thread counts; their times do not compare and "
                "take no part in the selection.");
    if (sweep->reference != NULL && sweep->configs[0].judgement.n_by_verdict[QS_VERDICT_BASELINE_FAIL] > 0)
        put_box(page, "warn",
                "The system misses gates before any quantisation (the row fp says which); there configurations are "
                "judged on drift alone.");
    for (int64_t i = 0; i < sweep->n_unreadable; i++) {
        text = (qs_sentence){0};
        qs_sentence_add(&text, "Not reported: %s", sweep->unreadable[i].cause);
        put_box(page, "warn", text.text);
    }
}

static void put_head(const qs_page *page)
{
    const qs_config_row *row = &page->sweep->configs[0].row;
    const qs_frame *frame = &row->frame;
    FILE *stream = page->stream;
    (void)fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>qsweep: ",
                stream);
    qs_html_text(stream, frame->model);
    (void)fprintf(stream, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<h1>qsweep: ", qs_page_style);
    qs_html_format(stream, "%s (%s, %s); perplexity by protocol %s, %lld windows of %lld tokens, %lld scored, %s",
                   frame->model, frame->architecture, frame->storage, frame->protocol, (long long)frame->n_windows,
                   (long long)frame->n_ctx, (long long)frame->n_scored, frame->compute);
    if (frame->encoder[0] != '\0') qs_html_format(stream, "; distances by the encoder %s", frame->encoder);
    if (qs_frame_is_chat(frame)) qs_html_format(stream, "; prompts by the chat template %s", frame->chat);
    (void)fputs("</h1>\n", stream);
}

static void put_links(const qs_page *page)
{
    static const char *const links[][2] = {
        {"all", "All points"},
        {"trade", "Quality and cost"},
        {"why", "What is wrong"},
        {"fixes", "Fixes"},
        {"gates", "Gates"},
        {"lambda", "\xCE\xBB"},
        {"gap", "Anchor gap"},
        {"times", "Times"},
        {"entropy", "Entropy"},
        {"layers", "Layers"},
        {"controls", "Controls"},
        {"environment", "Environment"},
        {"reading", "How to read"},
    };
    (void)fputs("<nav>", page->stream);
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        (void)fprintf(page->stream, "<a href=\"#%s\">%s</a> ", links[i][0], links[i][1]);
    (void)fputs("</nav>\n", page->stream);
}

qs_err qs_write_page(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    qs_control controls[QS_N_CONTROLS];
    qs_page page = {stream, sweep, selection, controls};
    bool trusted = qs_controls_run(sweep, controls);
    put_head(&page);
    put_headline(&page);
    put_warnings(&page, trusted);
    put_links(&page);
    qs_page_points(&page);
    qs_page_figures(&page);
    qs_page_diagnosis(&page);
    qs_page_fixes(&page);
    qs_page_gates(&page);
    qs_page_lambda(&page);
    qs_page_gaps(&page);
    qs_page_curves(&page);
    qs_page_provenance(&page);
    (void)fprintf(stream, "<script>\n%s</script>\n</body>\n</html>\n", qs_page_script);
    return ferror(stream) ? qs_fail(QS_E_RESOURCE, "write report.html: the disk takes no more") : QS_OK;
}
