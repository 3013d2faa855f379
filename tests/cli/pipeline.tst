# The whole path on the tiny model: calibrate, quantize, evaluate, report. STATUS PATTERN COMMAND
# The directory of a file is made with it.
0 . mkdir -p $TMP/b
0 100.windows qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --production datasets/handbook/production --samples 100 --seqlen 64 --out $TMP/a/calib.h5
0 current qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --production datasets/handbook/production --samples 100 --seqlen 64 --out $TMP/a/calib.h5
0 . qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec rtn:bits=4,group=32,sym=1 --spec gptq:bits=4,group=32,sym=1 --spec gptq:bits=2,group=64,sym=0,act=1 --spec awq:bits=4,group=32,zero=1 --out $TMP/a
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 8 --quant $TMP/a/rtn-b4-g32-sym.quant.h5 --quant $TMP/a/gptq-b4-g32-sym.quant.h5 --quant $TMP/a/gptq-b2-g64-asym-act.quant.h5 --quant $TMP/a/awq-b4-g32-asym.quant.h5 --out $TMP/a
[03] rtn-b4-g32-sym qsweep report --budgets datasets/budgets.csv --out $TMP/a $TMP/a/*.eval.h5
0 ^config,method,bits,group_size head -1 $TMP/a/summary.csv
0 ^5$ tail -n +2 $TMP/a/summary.csv | wc -l
0 ^gptq-b2-g64-asym-act,gptq,2,64,asym-act, cat $TMP/a/summary.csv
0 ^awq-b4-g32-asym,awq,4,32,asym, cat $TMP/a/summary.csv

# One thread gives the same artifacts as all threads (issue: bit-identical).
0 . qsweep calibrate --threads 1 --model tests/fixtures/tiny --text datasets/handbook/calibration --production datasets/handbook/production --samples 100 --seqlen 64 --out $TMP/b/calib.h5
0 . qsweep quantize --threads 1 --model tests/fixtures/tiny --calib $TMP/b/calib.h5 --spec gptq:bits=4,group=32,sym=1 --spec gptq:bits=2,group=64,sym=0,act=1 --spec awq:bits=4,group=32,zero=1 --out $TMP/b
0 . qsweep evaluate --threads 1 --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 8 --quant $TMP/b/awq-b4-g32-asym.quant.h5 --quant $TMP/b/gptq-b2-g64-asym-act.quant.h5 --quant $TMP/b/gptq-b4-g32-sym.quant.h5 --out $TMP/b
0 ^calib_[0-9a-f]{32}$ for d in a b; do (cd $TMP/$d; for f in calib.h5 {gptq,awq}*.quant.h5 {gptq,awq}*.eval.h5; do $OLDPWD/$QS_BUILD/tests/tool_artifact $f || exit 1; done) >$TMP/$d.digests || exit 1; done; cat $TMP/a.digests
0 ^7$ wc -l <$TMP/b.digests
0 . cmp $TMP/a.digests $TMP/b.digests

# AWQ's scalings by the output of the block: points of their own, neither taken for the other's, one thread or many.
0 0.of.1.points qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec awq:bits=4,group=32,zero=1 --awq-loss linear --out $TMP/a --dry-run
0 awq-b4-g32-asym-block qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec awq:bits=4,group=32,zero=1 --awq-loss block --out $TMP/a
0 0.of.1.points qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec awq:bits=4,group=32,zero=1,loss=block --out $TMP/a
0 . qsweep quantize --threads 1 --model tests/fixtures/tiny --calib $TMP/b/calib.h5 --spec awq:bits=4,group=32,zero=1,loss=block --out $TMP/b
0 ^1$ for d in a b; do (cd $TMP/$d; $OLDPWD/$QS_BUILD/tests/tool_artifact awq-b4-g32-asym-block.quant.h5); done | sort -u | wc -l
2 linear.or.block qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec awq:bits=4,group=32 --awq-loss cube --out $TMP/x
2 no.point qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec rtn:bits=4,group=32 --awq-loss block --out $TMP/x
0 b4-g32-asym-block qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --propagate awq:bits=4,group=32,loss=block --out $TMP/x.h5

# bitsandbytes' formats need no calibration; compute dtype and double quantisation are axes of a grid.
0 . printf 'method,bits,group_size,variant\nnf4,4,64,dq-bf16|nodq-fp32\nfp4,,32,dq-fp16\nint8,8,,\n' >$TMP/bnb.csv
0 ^nf4-blk64-nodq-fp32.*4.500 qsweep plan --model tests/fixtures/tiny --grid $TMP/bnb.csv --out $TMP/d
0 4.of.4.points qsweep quantize --model tests/fixtures/tiny --grid $TMP/bnb.csv --out $TMP/d
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --quant $TMP/d/nf4-blk64-dq-bf16.quant.h5 --quant $TMP/d/nf4-blk64-nodq-fp32.quant.h5 --quant $TMP/d/fp4-blk32-dq-fp16.quant.h5 --quant $TMP/d/int8.quant.h5 --out $TMP/d
[03] int8 qsweep report --budgets datasets/budgets.csv --out $TMP/d $TMP/d/*.eval.h5
0 ^int8,int8,8,-1,,8. cat $TMP/d/summary.csv
0 ^nf4-blk64-dq-bf16,nf4,4,64,dq-bf16, cat $TMP/d/summary.csv
0 ^fp4-blk32-dq-fp16,savings_visible,1, cat $TMP/d/verdicts.csv
2 one.of.32 qsweep quantize --model tests/fixtures/tiny --spec nf4:block=48 --out $TMP/d
5 integer.codes qsweep export --model tests/fixtures/tiny --quant $TMP/d/nf4-blk64-dq-bf16.quant.h5 --format gguf --out $TMP/x.gguf

# Budgets: bits shared out among matrices, for EXL2 and GPTQ; a bitrate out of reach is refused before any work.
0 . printf 'method,bits,group_size,variant\nexl2,3.5|4.5,,\ngptq,3.75,,sym\n' >$TMP/budget.csv
0 ^exl2-4.50bpw qsweep plan --model tests/fixtures/tiny --grid $TMP/budget.csv --out $TMP/e
0 3.of.3.points.*predicted qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --grid $TMP/budget.csv --out $TMP/e 2>&1 | tr '\n' ' '
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --quant $TMP/e/exl2-3.50bpw-h16.quant.h5 --quant $TMP/e/exl2-4.50bpw-h16.quant.h5 --quant $TMP/e/gptq-3.75bpw-sym.quant.h5 --out $TMP/e
[03] exl2-3.50bpw qsweep report --budgets datasets/budgets.csv --out $TMP/e $TMP/e/*.eval.h5
0 ^exl2-4.50bpw-h16,exl2,,,h16,4\.[45] cat $TMP/e/summary.csv
0 ^gptq-3.75bpw-sym,gptq,,,sym,3\.[67] cat $TMP/e/summary.csv
2 cannot.be.reached qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec exl2:bpw=2.0 --out $TMP/x
2 propagate.*cannot.be.reached qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --propagate exl2:bpw=1.5 --out $TMP/x.h5
0 . qsweep calibrate --quiet --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --propagate exl2:bpw=4,rotate=1 --out $TMP/p.h5 && qsweep quantize --model tests/fixtures/tiny --calib $TMP/p.h5 --spec exl2:bpw=4,rotate=1 --out $TMP/p
5 format.is.exl2 qsweep export --model tests/fixtures/tiny --quant $TMP/e/exl2-4.50bpw-h16.quant.h5 --format gguf --out $TMP/x.gguf
0 . qsweep export --model tests/fixtures/tiny --quant $TMP/e/exl2-4.50bpw-h16.quant.h5 --format exl2 --out $TMP/exl2
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks ppl --checkpoint $TMP/exl2 --out $TMP/e2
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks ppl --quant $TMP/e/exl2-4.50bpw-h16.quant.h5 --out $TMP/e2
[03] . qsweep report --budgets datasets/budgets.csv --out $TMP/e2 $TMP/e2/*.eval.h5
0 ^1$ grep -E '^exl2' $TMP/e2/summary.csv | cut -d, -f9 | sort -u | wc -l
# The output head as one more EXL2 matrix, of a rotated point too: out and in again with the same perplexity and size.
0 . printf 'method,bits,group_size,variant\nexl2,4.5,,h4|h6-rot\n' >$TMP/head.csv
0 2.of.2.points qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --grid $TMP/head.csv --out $TMP/h 2>&1
0 . for q in exl2-4.50bpw-h4 exl2-4.50bpw-h6-rot; do qsweep export --quiet --model tests/fixtures/tiny --quant $TMP/h/$q.quant.h5 --format exl2 --out $TMP/h/$q && qsweep evaluate --quiet --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks ppl --quant $TMP/h/$q.quant.h5 --out $TMP/h/own && mv $TMP/h/$q $TMP/h/dir-$q && qsweep evaluate --quiet --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks ppl --checkpoint $TMP/h/dir-$q --out $TMP/h/own || exit 1; done; echo done
[03] exl2-4.50bpw-h4 qsweep report --budgets datasets/budgets.csv --out $TMP/h/own $TMP/h/own/*.eval.h5
0 ^1.1$ for q in h4 h6-rot; do grep -E "^(dir-)?exl2-4.50bpw-$q," $TMP/h/own/summary.csv | cut -d, -f7-8 | sort -u | wc -l; done | tr '\n' ' ' | sed 's/ $//'
0 .head_bits..4 tr -d ' \n' <$TMP/h/dir-exl2-4.50bpw-h4/config.json
5 head.is.quantised qsweep export --model tests/fixtures/tiny --quant $TMP/h/exl2-4.50bpw-h4.quant.h5 --format gguf --type f16 --out $TMP/x.gguf
0 . qsweep export --model tests/fixtures/tiny --quant $TMP/e/gptq-3.75bpw-sym.quant.h5 --format gptq --out $TMP/dynamic
0 model...layers...[01]...(self_attn|mlp)...[a-z]+_proj cat $TMP/dynamic/config.json
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --tasks ppl --checkpoint $TMP/dynamic --quant $TMP/e/gptq-3.75bpw-sym.quant.h5 --out $TMP/e3
[03] . qsweep report --budgets datasets/budgets.csv --out $TMP/e3 $TMP/e3/*.eval.h5
0 ^1$ grep -E ',gptq,' $TMP/e3/summary.csv | cut -d, -f9 | sort -u | wc -l
0 ^2$ grep -E ',gptq,' $TMP/e3/summary.csv | wc -l

# A rotated residual stream: from a grid, beside others, with a head of its own when exported.
0 . printf 'method,bits,group_size,variant\ngptq,4,32,sym|sym-rot\nrtn,8,32,sym-rot\n' >$TMP/rotated.csv
0 . qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --grid $TMP/rotated.csv --out $TMP/f
0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 4 --quant $TMP/f/gptq-b4-g32-sym-rot.quant.h5 --quant $TMP/f/rtn-b8-g32-sym-rot.quant.h5 --out $TMP/f
[03] gptq-b4-g32-sym-rot qsweep report --budgets datasets/budgets.csv --out $TMP/f $TMP/f/*.eval.h5
0 ^1.00 grep ^rtn-b8-g32-sym-rot $TMP/f/summary.csv | cut -d, -f10
0 . qsweep export --model tests/fixtures/tiny --quant $TMP/f/gptq-b4-g32-sym-rot.quant.h5 --format gptq --out $TMP/rotated
0 embeddings".*false cat $TMP/rotated/config.json
0 by.GPTQ qsweep export --model tests/fixtures/tiny --quant $TMP/f/rtn-b8-g32-sym-rot.quant.h5 --format gguf --type q5_1 --calib $TMP/a/calib.h5 --out $TMP/rotated.gguf

# Statistics with products in bf16, where the CPU has them, are other statistics than those in f32.
[05] . qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --compute bf16 --out $TMP/bf16.h5
2 f32.or.bf16 qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --compute f64 --out $TMP/x.h5
0 nothing.to.do qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 100 --seqlen 64 --out $TMP/a/calib.h5
0 wrote.*in qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --out $TMP/bf16.h5

# Sequential statistics through quantised layers.
0 gptq-b3 qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 100 --seqlen 64 --propagate gptq:bits=3,group=32,sym=1 --out $TMP/a/calib-seq.h5
0 . qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib-seq.h5 --spec gptq:bits=3,group=32,sym=1 --out $TMP/a

0 awq-b3 qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 4 --seqlen 64 --propagate awq:bits=3,group=32 --out $TMP/a/calib-awq.h5

# Bad input: one clear line, the right status, nothing left behind.
2 --model qsweep calibrate
2 unknown.option qsweep calibrate --modle x
2 stage qsweep frobnicate
4 missing.dir qsweep calibrate --model $TMP/missing.dir --text datasets/handbook/calibration --out $TMP/x.h5
0 . : >$TMP/empty.txt
4 no.text qsweep calibrate --model tests/fixtures/tiny --text $TMP/empty.txt --out $TMP/x.h5
4 tokens qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/README.md --seqlen 100000 --out $TMP/x.h5
6 . qsweep calibrate --model tests/fixtures/tiny --text datasets/handbook/calibration --samples 2 --seqlen 16 --out /proc/nowhere/x.h5
2 bits qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec rtn:bits=5,group=32 --out $TMP/x
2 group qsweep quantize --model tests/fixtures/tiny --calib $TMP/a/calib.h5 --spec rtn:bits=4,group=4096 --out $TMP/x
4 calibrate qsweep quantize --model tests/fixtures/tiny --calib $TMP/nothing.h5 --spec gptq:bits=4,group=32 --out $TMP/x
4 another.model qsweep quantize --model tests/fixtures/models/smollm2 --calib $TMP/a/calib.h5 --spec gptq:bits=4,group=16 --out $TMP/x
4 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --quant $TMP/a/calib.h5 --out $TMP/x
0 . ! ls $TMP/x.h5* $TMP/x/*.h5* $TMP/*/*.part.* 2>/dev/null
