# report.html is valid HTML, whatever the names say (tidy as the second opinion; tests/test_page.c as the first).
NEEDS /usr/bin/tidy it judges HTML (package tidy)
0 . $QS_BUILD/tests/tool_eval_fixture $TMP/eval
0 . qsweep-report --quiet --budgets datasets/budgets.csv --out $TMP/out $TMP/eval/{rtn-b4-g64-sym,fp,gptq-b4-g64-sym,gptq-b3-g64-sym,nf4-blk64}.eval.h5
0 . test -z "$(tidy -q -e --drop-empty-elements no $TMP/out/report.html 2>&1)"
0 headline.>Ship_gptq-b4-g64-sym cat $TMP/out/report.html
