/* A gold set of three items, small enough to reckon by hand, as files. */
#ifndef QS_TESTS_GOLD_FILES_H
#define QS_TESTS_GOLD_FILES_H

#include "model_files.h"

/* Sections A (bytes 0..36) and B (36..64) of one file; the anchors lie in S1, S2 and nowhere. */
static const char gold_corpus[] =
    "{\"snippet_id\":\"S1\",\"section_id\":\"A\",\"source_url\":\"f.md#A\",\"header\":\"Pumps\",\"start\":0,\"end\":17,"
    "\"tokens\":4,\"rev\":\"1\",\"text\":\"The pump has red.\"}\n"
    "{\"snippet_id\":\"S2\",\"section_id\":\"A\",\"source_url\":\"f.md#A\",\"header\":\"Pumps\",\"start\":18,"
    "\"end\":35,\"tokens\":5,\"rev\":\"1\",\"text\":\"The gate is 4 kg.\"}\n"
    "{\"snippet_id\":\"S3\",\"section_id\":\"B\",\"source_url\":\"f.md#B\",\"header\":\"Weirs\",\"start\":36,"
    "\"end\":50,\"tokens\":3,\"rev\":\"1\",\"text\":\"Weirs go north\"}\n";
static const char gold_items[] =
    "{\"qid\":\"Q1\",\"question\":\"What has the pump?\",\"paraphrases\":[\"Pump: what?\",\"Say the pump.\",\"The pump "
    "has?\"],\"answer\":\"red\",\"answerable\":true,\"target_section\":\"A\",\"decoy_section\":\"B\",\"anchor\":"
    "{\"snippet_id\":\"S1\",\"start\":4,\"end\":17},\"band\":\"easy\"}\n"
    "{\"qid\":\"Q2\",\"question\":\"How heavy is the gate?\",\"paraphrases\":[\"Gate: weight?\",\"Weigh the "
    "gate.\",\"The gate is?\"],\"answer\":\"4 kg\",\"answerable\":true,\"target_section\":\"A\","
    "\"decoy_section\":\"B\",\"anchor\":{\"snippet_id\":\"S2\",\"start\":18,\"end\":35},\"band\":\"easy\"}\n"
    "{\"qid\":\"Q3\",\"question\":\"Who runs the weirs?\",\"paraphrases\":[\"Weirs: who?\",\"Name who runs weirs.\","
    "\"Weirs are run by?\"],\"answer\":\"not stated\",\"answerable\":false,\"target_section\":\"B\",\"decoy_section\":"
    "\"A\",\"anchor\":null,\"band\":\"hard\"}\n";

/* Writes gold.jsonl and corpus.jsonl into dir. */
static inline void save_gold_files(const char *dir)
{
    char path[QS_PATH_BYTES];
    assert_ok(qs_path_format(path, "%s/corpus.jsonl", dir));
    save_file(path, gold_corpus, strlen(gold_corpus));
    assert_ok(qs_path_format(path, "%s/gold.jsonl", dir));
    save_file(path, gold_items, strlen(gold_items));
}

#endif
