#include "metric/candidate.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "model/model_record.h"
#include "model/tokenizer_compare.h"

qs_err qs_candidate_open(qs_candidate *out, qs_candidate_kind kind, const char *path, qs_model *model)
{
    *out = (qs_candidate){0};
    if (kind == QS_CANDIDATE_QUANT) return qs_quant_file_open(&out->quant, path, model);
    return kind == QS_CANDIDATE_CHECKPOINT ? qs_checkpoint_open(&out->checkpoint, path, model) : QS_OK;
}

void qs_candidate_close(qs_candidate *candidate)
{
    qs_quant_file_close(candidate->quant);
    qs_checkpoint_close(candidate->checkpoint);
    *candidate = (qs_candidate){0};
}

static qs_err identify_quant(const char *path, qs_model *model, char *id, qs_digest *digest,
                             qs_candidate_head *head)
{
    qs_artifact *artifact = NULL;
    qs_err err;
    QS_TRY(qs_artifact_open(&artifact, path, QS_KIND_QUANT));
    QS_TRY(qs_model_check_record(model, artifact, path));
    QS_TRY(qs_artifact_get_text(artifact, "/spec/@id", id, QS_SPEC_ID_BYTES));
    *digest = qs_artifact_digest(artifact);
    *head = qs_artifact_has(artifact, QS_QUANT_HEAD_CODES)   ? QS_HEAD_OWN
            : qs_artifact_has(artifact, "/rotation/@digest") ? QS_HEAD_ROTATED
                                                             : QS_HEAD_REFERENCE;
out:
    qs_artifact_close(artifact);
    return err;
}

qs_err qs_candidate_identify(qs_candidate_kind kind, const char *path, qs_model *model, char *id, qs_digest *digest,
                             qs_candidate_head *head)
{
    qs_candidate candidate;
    if (kind == QS_CANDIDATE_QUANT) return identify_quant(path, model, id, digest, head);
    qs_err err = qs_candidate_open(&candidate, kind, path, model);
    if (err != QS_OK) return err;
    const qs_checkpoint_facts *facts = qs_checkpoint_get_facts(candidate.checkpoint);
    (void)snprintf(id, QS_SPEC_ID_BYTES, "%s", facts->id);
    *digest = facts->digest;
    *head = QS_HEAD_OWN;
    qs_candidate_close(&candidate);
    return QS_OK;
}

qs_linear_source qs_candidate_source(const qs_candidate *candidate)
{
    return candidate->checkpoint != NULL ? qs_checkpoint_source(candidate->checkpoint)
                                         : qs_quant_file_source(candidate->quant);
}

qs_quant_size qs_candidate_size(const qs_candidate *candidate, const qs_model *model)
{
    if (candidate->checkpoint != NULL) {
        const qs_checkpoint_facts *facts = qs_checkpoint_get_facts(candidate->checkpoint);
        return qs_quant_size_of_bits(facts->linear_bits, facts->head_bits, model);
    }
    return candidate->quant != NULL ? qs_quant_file_size(candidate->quant) : qs_quant_size_of(NULL, model);
}

const qs_model *qs_candidate_model(const qs_candidate *candidate, const qs_model *model)
{
    if (candidate->checkpoint != NULL) return qs_checkpoint_model(candidate->checkpoint);
    return candidate->quant != NULL ? qs_quant_file_model(candidate->quant) : model;
}

/* ---- what is recorded ---- */

/* Checklist G7: another tokenizer makes another model of the same weights. */
static qs_err put_tokenizer(const qs_checkpoint *checkpoint, const qs_model *model, const char *text, size_t bytes,
                            qs_artifact *artifact)
{
    const qs_tokenizer *own = qs_model_get_tokenizer(qs_checkpoint_model(checkpoint)),
                       *wanted = qs_model_get_tokenizer(model);
    const char *id = qs_checkpoint_get_facts(checkpoint)->id;
    char difference[QS_TOKENIZER_DIFFERENCE_BYTES] = "";
    if (own == NULL || wanted == NULL) return qs_artifact_put_text(artifact, "/checkpoint/@tokenizer", "none");
    qs_err err = qs_tokenizer_compare(wanted, own, text, bytes, difference);
    if (err != QS_OK) return qs_context(err, "compare the tokenizer of %s", id);
    if (difference[0] != '\0')
        qs_log_warn("%s: its tokenizer is another one than the model's: %s. Its weights are evaluated on the model's "
                    "tokens; as it is deployed, it sees others",
                    id, difference);
    return qs_artifact_put_text(artifact, "/checkpoint/@tokenizer", difference[0] == '\0' ? "same" : difference);
}

static qs_err put_checkpoint(const qs_checkpoint *checkpoint, const qs_model *model, const char *text, size_t bytes,
                             qs_artifact *artifact)
{
    const qs_checkpoint_facts *facts = qs_checkpoint_get_facts(checkpoint);
    qs_err err;
    if (facts->n_quantised < facts->n_linears)
        qs_log_warn("%s: %lld of its %lld linears are not quantised", facts->id,
                    (long long)(facts->n_linears - facts->n_quantised), (long long)facts->n_linears);
    QS_TRY(qs_artifact_put_int(artifact, "/checkpoint/@n_linears", facts->n_linears));
    QS_TRY(qs_artifact_put_int(artifact, "/checkpoint/@n_quantised", facts->n_quantised));
    QS_TRY(put_tokenizer(checkpoint, model, text, bytes, artifact));
out:
    return err;
}

typedef struct config_row {
    const char *method, *variant;
    int64_t bits, group_size;
} config_row;

static config_row row_of(const qs_candidate *candidate)
{
    if (candidate->checkpoint != NULL) {
        const qs_checkpoint_facts *f = qs_checkpoint_get_facts(candidate->checkpoint);
        return (config_row){f->method, f->variant, f->bits, f->group_size};
    }
    if (candidate->quant == NULL) return (config_row){"fp", "", 0, 0};
    const qs_spec *spec = qs_quant_file_spec(candidate->quant);
    return (config_row){spec->method->name, spec->variant, spec->bits, spec->group_size};
}

const char *qs_candidate_method(const qs_candidate *candidate) { return row_of(candidate).method; }

qs_err qs_candidate_put_config(const qs_candidate *candidate, const qs_model *model, const char *text, size_t bytes,
                               qs_artifact *artifact)
{
    qs_quant_size size = qs_candidate_size(candidate, model);
    config_row row = row_of(candidate);
    qs_err err;
    QS_TRY(qs_artifact_put_text(artifact, "/config/@method", row.method));
    QS_TRY(qs_artifact_put_int(artifact, "/config/@bits", row.bits));
    QS_TRY(qs_artifact_put_int(artifact, "/config/@group_size", row.group_size));
    QS_TRY(qs_artifact_put_text(artifact, "/config/@variant", row.variant));
    QS_TRY(qs_artifact_put_real(artifact, "/config/@bpw", size.bpw));
    QS_TRY(qs_artifact_put_real(artifact, "/config/@bpw_total", size.bpw_total));
    QS_TRY(qs_artifact_put_int(artifact, "/config/@bytes", size.bytes));
    if (candidate->checkpoint != NULL) err = put_checkpoint(candidate->checkpoint, model, text, bytes, artifact);
out:
    return err;
}
