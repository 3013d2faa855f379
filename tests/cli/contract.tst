# What product.md promises of every stage: exit statuses, files, what --json and --dry-run print. STATUS PATTERN COMMAND
0 . qsweep calibrate --quiet --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --out $TMP/c.h5 2>&1 && qsweep quantize --quiet --model tests/fixtures/tiny --calib $TMP/c.h5 --spec gptq:bits=4,group=32 --spec rtn:bits=4,group=32 --out $TMP/q && qsweep evaluate --quiet --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks ppl,kld --quant $TMP/q/gptq-b4-g32-sym.quant.h5 --quant $TMP/q/rtn-b4-g32-sym.quant.h5 --out $TMP/e && ls $TMP/e

# A file that may not grow is a full disk: said, nothing left behind.
6 File.too.large bash -c "ulimit -f 20; qsweep quantize --quiet --model tests/fixtures/tiny --calib $TMP/c.h5 --spec gptq:bits=4,group=32 --out $TMP/u"
0 ^0$ ls -A $TMP/u | wc -l
# A grid that is wrong is a bad file; blanks around alternatives are none of their letters.
4 grid.csv:2.*bits=5 printf 'method,bits,group_size,variant\nrtn,5,64,sym\n' >$TMP/grid.csv; qsweep plan --grid $TMP/grid.csv
4 grid.csv:2.*reference.needs.no.point printf 'method,bits,group_size,variant\nfp,16,,\n' >$TMP/grid.csv; qsweep plan --grid $TMP/grid.csv
0 ^rtn-b8-g64-asym printf 'method,bits,group_size,variant\nrtn,4 | 8,64,sym | asym\n' >$TMP/grid.csv; qsweep plan --grid $TMP/grid.csv
# --json is one document, whatever there was to do; of what is not known it says null.
0 ^current.written$ for o in calib new; do qsweep calibrate --quiet --json --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --out $TMP/c.h5 2>/dev/null | python3 -c "import json,sys; print(json.load(sys.stdin)['status'])"; rm $TMP/c.h5; done | tr '\n' ' ' | sed 's/ $//'
0 ^True$ qsweep doctor --json --model tests/fixtures/tiny --spec rtn:bits=4,group=32 | python3 -c "import json,sys; d=json.load(sys.stdin); print(d['runs'] and d['model']['n_layers']==2 and d['placement']['config']=='rtn-b4-g32-sym' and d['peak_bytes']['calibrate']>1e6)"
4 "runs":.false qsweep doctor --json --model $TMP/none
# What doctor says as text is in its document: ops and where they come from, the self-test, the parts of the plan.
0 ^same$ qsweep doctor --backend cpu --list | sed '1,/^memory.available/d' >$TMP/ops; qsweep doctor --backend cpu --list --json | python3 -c "import json,sys; [print('%-19s %s' % (o['name'], o['from'])) for o in json.load(sys.stdin)['ops']]" | diff $TMP/ops - && grep -q attention_decode $TMP/ops && echo same
0 ^same$ qsweep doctor --backend cpu --self-test --model tests/fixtures/tiny >$TMP/said; qsweep doctor --backend cpu --self-test --model tests/fixtures/tiny --json | python3 -c "import json,sys; d=json.load(sys.stdin); [print(t['name'], t['ok'] and t['difference']<=t['limit']) for t in d['self_test']]; [print(p['name'], p['n'], p['where']) for p in d['placement']['parts']]" >$TMP/held; diff <(sed -n -e 's/^  \(.*[^ ]\)  *difference .*  ok$/\1 True/p' -e 's/^  \(.*[^ ]\)  *\([0-9]*\) x [0-9.]* [KMG]*i*B *\(.*\)/\1 \2 \3/p' $TMP/said) $TMP/held && grep -q KV $TMP/held && echo same
0 ^None.missing$ qsweep plan --json --grid $TMP/grid.csv | python3 -c "import json,sys; d=json.load(sys.stdin); print(d[0]['bpw'], d[0]['state'])"
0 ^4.rtn:bits=4 qsweep plan --json --specs-only --grid $TMP/grid.csv | python3 -c "import json,sys; d=json.load(sys.stdin); print(len(d), d[0])"
0 fp.eval.h5 qsweep plan --json --files eval --grid $TMP/grid.csv --out $TMP/e | python3 -c "import json,sys; print(json.load(sys.stdin)[0])"
0 ^2.True$ qsweep report --json --dry-run --budgets datasets/budgets.csv --out $TMP/r $TMP/e/fp.eval.h5 $TMP/e/rtn-b4-g32-sym.eval.h5 | python3 -c "import json,sys; d=json.load(sys.stdin); print(len(d['reads']), any(w.endswith('/summary.csv') for w in d['writes']))"
0 ^0.0.True$ qsweep report --json --compare $TMP/e --budgets datasets/budgets.csv $TMP/e | python3 -c "import json,sys; d=json.load(sys.stdin); print(d['better'], d['worse'], all(g['change']=='same' for g in d['gates']))"
# Tables appear together: where the disk is full after some of them, the old ones stay.
0 . mkdir $TMP/r; echo old >$TMP/r/summary.csv
6 report.html bash -c "ulimit -f 20; qsweep report --quiet --budgets datasets/budgets.csv --out $TMP/r $TMP/e/fp.eval.h5 $TMP/e/rtn-b4-g32-sym.eval.h5"
0 ^summary.csv.old$ ls $TMP/r | tr '\n' ' '; cat $TMP/r/summary.csv
# A misspelt metric is said; figures of optimizers are measured, though not in this run.
0 budgets.csv:3.*ppl_rato printf 'profile,metric,op,limit,level,source\n*,ppl_ratio,<=,9,fail,project\n*,ppl_rato,<=,1,fail,project\n' >$TMP/budgets.csv; qsweep report --quiet --budgets $TMP/budgets.csv $TMP/e/fp.eval.h5 $TMP/e/rtn-b4-g32-sym.eval.h5
0 not.measured.in.this.run:.opt_var_pct printf 'profile,metric,op,limit,level,source\n*,ppl_ratio,<=,9,fail,project\n*,opt_var_pct,<,5,fail,project\n' >$TMP/budgets.csv; qsweep report --quiet --budgets $TMP/budgets.csv $TMP/e/fp.eval.h5 $TMP/e/rtn-b4-g32-sym.eval.h5
4 gold.set qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --qa $TMP/none --out $TMP/none
2 OUT=.*has.a.blank tests/sweep_make $QS_BUILD sweep MODEL=tests/fixtures/tiny GRID=$TMP/grid.csv OUT="$TMP/a b"
# What a stage offers, as text and as a document.
0 ^adam8.awq.awq.gptq_v2.gram.kld.kld_p99.opt_var_pct.$ for w in 'calibrate statistics gram' 'train optimizers adam8' 'export formats gptq_v2' 'evaluate tasks kld' 'evaluate metrics kld_p99' 'report optimizer opt_var_pct' 'plan awq awq' 'quantize awq awq'; do set -- $w; qsweep $1 --list --json | python3 -c "import json,sys; d=json.load(sys.stdin)['$2']; print('$3' if isinstance(d,dict) and d['keys'] or any(r['name']=='$3' for r in d) else 'none of $1')"; done | sort | tr '\n' ' '
# Paths that are not UTF-8 are said to be so, and nothing else is lost.
0 ^1.not.UTF-8$ cp -r tests/fixtures/tiny $TMP/m$'\xff'; qsweep quantize --quiet --json --model $TMP/m$'\xff' --spec rtn:bits=4,group=32 --out $TMP/m$'\xff'/q | python3 -c "import json,sys; d=json.load(sys.stdin)['points']; print(len(d), d[0]['path'].strip('()'))"
4 no.such.directory qsweep plan --status $TMP/none
2 unknown.method qsweep doctor --spec nope
5 install.the.stages cp $(command -v qsweep) $TMP/alone && $TMP/alone plan --list
# What one call measured stays when another asks for more, of the reference and of points.
0 ^True.True$ for t in ppl memory kld ppl; do qsweep evaluate --quiet --json --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks $t --quant $TMP/q/rtn-b4-g32-sym.quant.h5 --out $TMP/more >$TMP/more.json || exit 1; done; python3 -c "import json; a=json.load(open('$TMP/more.json')); print(*[all(k in p['metrics'] for k in ('ppl','ppl_ratio','kld_mean','mem_peak')) for p in a])"
0 points.to.evaluate:.*fp:.current.*sym:.current qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks ppl,kld,memory --quant $TMP/q/rtn-b4-g32-sym.quant.h5 --out $TMP/more 2>&1 | tr '\n' ' '
# The library's directories stand in the order of pipeline/README.md: none includes what is below it there.
0 ^1[0-9].directories,.0.includes.downwards$ awk 'FILENAME ~ /README/ { if (/^\| `[a-z]+\/` \|/) { split($0, a, /[`\/]/); at[a[2]] = ++n } next } /^#include "[a-z]+\// { split($0, a, /["\/]/); split(FILENAME, f, "/"); if (!(a[2] in at) || at[a[2]] > at[f[2]]) { print FILENAME ": " $0; bad++ } } END { print n " directories, " bad + 0 " includes downwards" }' pipeline/README.md $(find pipeline -name '*.[ch]*')
