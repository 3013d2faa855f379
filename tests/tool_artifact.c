/* Verifies artifacts and prints "<kind> <content digest>" for each, for tests and scripts that compare runs. */
#include <stdio.h>

#include "artifact/artifact.h"
#include "base/args.h"

int main(int argc, char **argv)
{
    qs_err err = QS_OK;
    for (int i = 1; i < argc && err == QS_OK; i++) {
        qs_artifact_kind kind;
        qs_digest digest;
        char text[QS_DIGEST_TEXT_BYTES];
        err = qs_artifact_verify(argv[i]);
        if (err == QS_OK) err = qs_artifact_probe(argv[i], &kind, &digest);
        if (err == QS_OK) (void)printf("%s %s\n", qs_artifact_kind_name(kind), qs_digest_format(text, digest));
    }
    return qs_args_exit(err);
}
