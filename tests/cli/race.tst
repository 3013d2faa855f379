# Racing on the tiny model: who stops when, what the tables say of it, and that nothing mistakes a part for the whole.
0 . qsweep quantize --model tests/fixtures/tiny --spec rtn:bits=8,group=32 --spec rtn:bits=3,group=32 --spec rtn:bits=2,group=32 --out $TMP
0 . printf 'profile,metric,op,limit,level,source\n*,kld_mean,<=,0.1,fail,x\n*,ppl_ratio,<=,1.01,fail,x\n' >$TMP/b.csv
0 . printf 'profile,metric,op,limit,level,source\n*,kld_mean,<=,9,fail,x\n*,ppl_ratio,<=,9,fail,x\n' >$TMP/lenient.csv
0 . printf '%s\n' 'exec qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 96 --out $1 --quant $TMP/rtn-b8-g32-sym.quant.h5 --quant $TMP/rtn-b3-g32-sym.quant.h5 --quant $TMP/rtn-b2-g32-sym.quant.h5 $2 $3 $4 $5' >$TMP/run

# The good one is accepted and the bad ones are dropped after the first 32 windows; what is dropped is not timed.
0 rtn-b2-g32-sym:.dropped.after.32.of.96.windows.for.kld_mean sh $TMP/run $TMP/r --race $TMP/b.csv --tasks ppl,kld,latency
0 ^4$ sh $TMP/run $TMP/r --race $TMP/b.csv --tasks ppl,kld,latency 2>&1 | grep -c current,.skipped
3 . qsweep report --budgets $TMP/b.csv --out $TMP/none $TMP/r/rtn-b2-g32-sym.eval.h5 $TMP/r/fp.eval.h5
0 FAIL.*\*$ qsweep report --budgets $TMP/b.csv --out $TMP/t $TMP/r/*.eval.h5
0 Of.3.that.raced.2.were.dropped,.1.accepted.early qsweep report --budgets $TMP/b.csv $TMP/r/*.eval.h5 | tr -s '\n ' ' '
0 means.of.32.of.96.windows qsweep report --budgets $TMP/b.csv $TMP/r/*.eval.h5 | tr -s '\n ' ' '
0 ^fp,6048,$ cut -d, -f1,45,46 $TMP/t/summary.csv
0 ^rtn-b8-g32-sym,2016,accepted$ cut -d, -f1,45,46 $TMP/t/summary.csv
0 ^rtn-b3-g32-sym,2016,dropped$ cut -d, -f1,45,46 $TMP/t/summary.csv
0 ^rtn-b2-g32-sym,kld_mean,.*,FAIL,yes,yes$ cat $TMP/t/verdicts.csv
0 ^config,.*,tokens,race$ head -1 $TMP/t/summary.csv
0 Of.3.that.raced grep raced $TMP/t/report.html
0 "race":."accepted" qsweep report --json --budgets $TMP/b.csv $TMP/r/*.eval.h5

# Dropped stays dropped, also where its part of the windows would pass.
0 1.of.3.configurations.pass qsweep report --budgets $TMP/lenient.csv $TMP/r/*.eval.h5
0 PASS,.dropped.\* qsweep report --budgets $TMP/lenient.csv $TMP/r/*.eval.h5
0 Recommended:.rtn-b8 qsweep report --budgets $TMP/lenient.csv $TMP/r/*.eval.h5

# Other rules race again; a whole run takes no part for the whole, and a race leaves the whole alone.
0 since.the.race sh $TMP/run $TMP/r --race $TMP/lenient.csv --tasks ppl,kld
0 rtn-b2-g32-sym:.evaluated.again,.since.the.tokens sh $TMP/run $TMP/r --tasks ppl,kld
0 ^4$ sh $TMP/run $TMP/r --race $TMP/b.csv --tasks ppl,kld 2>&1 | grep -c current,.skipped
0 ^config,.*,verdict,failed$ qsweep report --budgets $TMP/b.csv --out $TMP/w $TMP/r/*.eval.h5 >/dev/null; head -1 $TMP/w/summary.csv

# What raced to the end is what it would have been: the same figures, row by row.
0 . printf 'profile,metric,op,limit,level,source\n*,kld_p99,<=,99,fail,x\n*,ppl_ratio,<=,9,fail,x\n' >$TMP/end.csv
0 . sh $TMP/run $TMP/end --race $TMP/end.csv --tasks ppl,kld
0 whole$ qsweep report --budgets $TMP/b.csv --out $TMP/e $TMP/end/*.eval.h5 >/dev/null; cut -d, -f46 $TMP/e/summary.csv
0 . cut -d, -f1-16 $TMP/e/summary.csv >$TMP/e1; cut -d, -f1-16 $TMP/w/summary.csv | cmp - $TMP/e1 && echo same
0 ^4$ sh $TMP/run $TMP/end --tasks ppl,kld 2>&1 | grep -c current,.skipped

# Misuse.
2 --race.needs sh $TMP/run $TMP/x --race $TMP/b.csv --tasks latency
2 without.--dump sh $TMP/run $TMP/x --race $TMP/b.csv --dump logits
4 unknown.op sh -c "printf 'profile,metric,op,limit,level,source\n*,ppl_ratio,=<,1,fail,x\n' >$TMP/bad.csv; sh $TMP/run $TMP/x --race $TMP/bad.csv"
