# report.html is valid HTML, whatever the names say (tidy as the second opinion; tests/test_page.c as the first).
NEEDS /usr/bin/tidy it judges HTML (package tidy)
0 . $QS_BUILD/tests/tool_eval_fixture $TMP/eval
0 . qsweep-report --quiet --budgets datasets/budgets.csv --out $TMP/out $TMP/eval/{rtn-b4-g64-sym,fp,gptq-b4-g64-sym,gptq-b3-g64-sym,nf4-blk64}.eval.h5
0 . test -z "$(tidy -q -e --drop-empty-elements no $TMP/out/report.html 2>&1)"
0 headline.>Ship_gptq-b4-g64-sym cat $TMP/out/report.html
# The page and tables of fixed artifacts are those that are kept, byte for byte (make golden makes them anew).
0 . scripts/make-golden $QS_BUILD $TMP/golden && diff -r -x budgets.csv $TMP/golden tests/golden
0 . test -z "$(tidy -q -e --drop-empty-elements no tests/golden/page/report.html 2>&1)"
# Every table that the page names lies beside it, and every part of the page names one.
0 . for t in $(grep -o 'href="[a-z]*[.]csv"' $TMP/out/report.html | sort -u | cut -d'"' -f2); do test -s $TMP/out/$t || exit 1; done
