# Planted faults are found, each by its gate and its symptom, and the same model without a fault passes (docs/faults.md; checklist
# G5, G7, A7, A10, A17, A19, B5, B9, E7). All of them with all questions: make test-faults. STATUS PATTERN COMMAND
0 . tests/plant_faults $QS_BUILD $TMP/faults 10 reader datasets/world --no-rerank --encoder tfidf >$TMP/found || { cat $TMP/found; exit 1; }
0 ^control_*passes.*nothing cat $TMP/found
0 ^group_*found.*misread-weights cat $TMP/found
0 ^shuffle_*found.*damaged-matrix cat $TMP/found
0 ^attention_*found.*coarse-attention cat $TMP/found
0 ^fp4_*found.*wrong-quant-type..B5 cat $TMP/found
0 ^language_*found.*other-calibration cat $TMP/found
0 ^tokenizer_*found.*other-tokenizer cat $TMP/found
0 ^headers_*found.*synthesis-drift..A7 cat $TMP/found
0 ^noise_*found.*sampling-noise cat $TMP/found
0 ^cut_*found.*cut-answers cat $TMP/found
0 ^index_*found.*other-index..E7 cat $TMP/found
# The prescribed fix takes the fault back, and the table says that it counts (docs/fixes.md; checklist A12).
0 ^yes$ awk -F, '$2 == "header-lock" && $3 == "lambda_conv" && $5 > $4 && $6 == "yes" { print $8 }' $TMP/faults/report-headers/fixes.csv
0 -> grep "fix header-lock: .*lambda_conv" $TMP/faults/log
# What the report says names the figures and a command that its stage takes.
0 answer_cut grep -A8 ^diagnosis $TMP/faults/report-cut.txt
0 --answer-tokens grep -A8 ^diagnosis $TMP/faults/report-cut.txt
