# qsweep-report (docs/report.md, docs/gates.md). $TMP/eval is the sweep of tests/eval_content.h.
0 . $QS_BUILD/tests/tool_eval_fixture $TMP/eval
0 summary.csv cd $TMP/eval && mkdir -p golden && for f in rtn-b4-g64-sym fp gptq-b4-g64-sym gptq-b3-g64-sym gptq-b2-g64-sym; do cp $f.eval.h5 golden; done; echo summary.csv

# one passes: 0; the tables are those of tests/golden
0 Recommended:_gptq-b4-g64-sym qsweep-report --budgets tests/golden/budgets.csv --out $TMP/out $TMP/eval/golden/{rtn-b4-g64-sym,fp,gptq-b4-g64-sym,gptq-b3-g64-sym,gptq-b2-g64-sym}.eval.h5
0 . for t in summary verdicts layers latency pareto; do cmp $TMP/out/$t.csv tests/golden/$t.csv || exit 1; done
0 . test "$(head -2 $TMP/out/summary.csv | tail -1 | cut -d, -f1)" = fp
# a second run gives the same bytes; --quiet and --json; the front end
0 \"config\" qsweep-report --budgets datasets/budgets.csv --json --quiet $TMP/eval/golden/*.eval.h5
0 \|_config qsweep-report --budgets datasets/budgets.csv --markdown --quiet $TMP/eval/golden/*.eval.h5
0 Recommended qsweep report --budgets datasets/budgets.csv $TMP/eval/golden/*.eval.h5
0 write_.*/summary.csv qsweep-report --budgets datasets/budgets.csv --out $TMP/dry --dry-run $TMP/eval/golden/*.eval.h5
0 . test ! -e $TMP/dry

# none passes: 3; strict: gates that were not measured do not pass: 3
3 none_of_1 qsweep-report --budgets datasets/budgets.csv $TMP/eval/fp.eval.h5 $TMP/eval/gptq-b2-g64-sym.eval.h5
3 NOT_EVALUABLE qsweep-report --budgets datasets/budgets.csv --strict $TMP/eval/golden/*.eval.h5
3 none_of_0 qsweep-report --budgets datasets/budgets.csv $TMP/eval/fp.eval.h5
# a failed negative control: no verdict can be trusted
3 negative_control qsweep-report --budgets datasets/budgets.csv $TMP/eval/fp.eval.h5 $TMP/eval/rtn-b4-g64-sym.eval.h5 $TMP/eval/gptq-is-rtn.eval.h5
0 understated qsweep-report --budgets datasets/budgets.csv $TMP/eval/lattice.eval.h5 $TMP/eval/gptq-b4-g64-sym.eval.h5

# a missing or cut file is listed, the rest reported; none readable: 4
0 not_reported:.*missing qsweep-report --budgets datasets/budgets.csv $TMP/eval/golden/*.eval.h5 $TMP/eval/missing.eval.h5
0 not_reported:.*cut.eval.h5 head -c 3000 $TMP/eval/fp.eval.h5 >$TMP/cut.eval.h5; qsweep-report --budgets datasets/budgets.csv $TMP/eval/golden/*.eval.h5 $TMP/cut.eval.h5
4 none_is_usable qsweep-report --budgets datasets/budgets.csv $TMP/eval/missing.eval.h5 $TMP/cut.eval.h5
# mixing is refused and names what differs
4 the_model's_content_differs qsweep-report --budgets datasets/budgets.csv $TMP/eval/fp.eval.h5 $TMP/eval/other-model.eval.h5
4 the_protocol_differs qsweep-report --budgets datasets/budgets.csv $TMP/eval/fp.eval.h5 $TMP/eval/other-protocol.eval.h5
4 token_windows_differs qsweep-report --budgets datasets/budgets.csv $TMP/eval/fp.eval.h5 $TMP/eval/other-tokens.eval.h5
4 both_hold qsweep-report --budgets datasets/budgets.csv $TMP/eval/gptq-is-rtn.eval.h5 $TMP/eval/gptq-b4-g64-sym.eval.h5

# budgets: file and line
4 bad.csv:2:_unknown_op printf 'profile,metric,op,limit,level,source\n*,ppl,~,1,fail,x\n' >$TMP/bad.csv; qsweep-report --budgets $TMP/bad.csv $TMP/eval/fp.eval.h5
4 No_such_file qsweep-report --budgets $TMP/none.csv $TMP/eval/fp.eval.h5
# usage
2 --budgets qsweep-report $TMP/eval/fp.eval.h5
2 --budgets qsweep-report --budgets datasets/budgets.csv
2 unknown_option qsweep-report --bugdets datasets/budgets.csv x
0 EVAL... qsweep-report --help
# a directory that cannot be made
6 . : >$TMP/file; qsweep-report --budgets datasets/budgets.csv --out $TMP/file/out $TMP/eval/golden/*.eval.h5

# the generated docs are current (make docs)
0 . qsweep-report --list | diff - docs/columns.md
0 . qsweep-report --schema | diff - docs/artifacts.md
0 . qsweep-report --symptoms | diff - docs/symptoms.md
2 go.without.--json qsweep-report --schema --json
2 go.without.--json qsweep-report --symptoms --json

# every option that a symptom's next command names is one of its stage
0 ^known$ qsweep-report --symptoms | grep -o '`[^`]*` |$' | sed 's/{evaluate}/qsweep evaluate/g; s/&&/\n/g' | grep -o 'qsweep .*' | while read -r q stage rest; do qsweep-$stage --help >$TMP/help; for o in $(grep -oE -e '--[a-z-]+' <<<"$rest"); do grep -q -e "$o" $TMP/help || echo "$stage has no $o"; done; done | grep . || echo known

# two runs side by side: a run is no worse than itself; other figures under the same name are a regression (status 3)
0 0_worse_beyond_noise qsweep-report --budgets datasets/budgets.csv --compare $TMP/eval/golden $TMP/eval/golden
0 . mkdir $TMP/eval/later && cp $TMP/eval/golden/* $TMP/eval/later && cp $TMP/eval/gptq-is-rtn.eval.h5 $TMP/eval/later/gptq-b4-g64-sym.eval.h5
3 ppl_ratio_+1.009.*1.073.*worse qsweep-report --budgets datasets/budgets.csv --compare $TMP/eval/golden --out $TMP/cmp $TMP/eval/later
0 ^gptq-b4-g64-sym,ppl_ratio,1.00883,1.001,1.02,1.07281,1.06,1.09,PASS,WARN,worse$ cat $TMP/cmp/compare.csv
0 better qsweep-report --budgets datasets/budgets.csv --markdown --compare $TMP/eval/later $TMP/eval/golden
2 one_more_directory qsweep-report --budgets datasets/budgets.csv --compare $TMP/eval/golden
4 no_eval_artifacts qsweep-report --budgets datasets/budgets.csv --compare tests/golden $TMP/eval/golden
# colour only on a terminal, and not under NO_COLOR
NEEDS /usr/bin/script it makes a terminal
0 \[32mPASS script -qec "qsweep-report --budgets datasets/budgets.csv $TMP/eval/golden/*.eval.h5" /dev/null
1 . script -qec "NO_COLOR=1 qsweep-report --budgets datasets/budgets.csv $TMP/eval/golden/*.eval.h5" /dev/null | grep -q '\[3'
1 . qsweep-report --budgets datasets/budgets.csv $TMP/eval/golden/*.eval.h5 | grep -q '\[3'
