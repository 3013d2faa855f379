# evaluate's options, plan, re-use and refusals on the tiny model. STATUS PATTERN COMMAND
0 --baseline qsweep evaluate --help
0 latency_gain_pct qsweep evaluate --list
0 llamacpp qsweep evaluate --list

# Plan only: nothing is written.
0 1.points.to.evaluate:.about.0.s qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --dry-run --out $TMP/plan
0 "n_todo":.1 qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --dry-run --json --quiet --out $TMP/plan
0 . ! ls $TMP/plan 2>/dev/null

# The reference, then again: current. The negative control is in it.
0 fp:.ppl qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld --out $TMP/e
0 fp:.current,.skipped qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld --out $TMP/e
0 ^0.0$ qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld --json --quiet --out $TMP/e | python3 -c "import json,sys; print(json.load(sys.stdin)[0]['metrics']['kld_max']['value'])"
0 ^6$ qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld --json --quiet --out $TMP/e | python3 -c "import json,sys; print(json.load(sys.stdin)[0]['metrics']['ppl']['n'])"
0 protocol.llamacpp qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl --protocol llamacpp --out $TMP/l
0 "decode_ms_tok_p95" qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 2 --json --out $TMP/t

# A later point needs the stored reference alone; its own pass is what it costs.
0 . qsweep quantize --model tests/fixtures/tiny --spec rtn:bits=8,group=32 --spec rtn:bits=2,group=32 --out $TMP/e
0 rtn-b8-g32-sym:.ppl qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --out $TMP/e
0 of.the.reference's.forward.pass qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld --quant $TMP/e/rtn-b2-g32-sym.quant.h5 --baseline $TMP/e/fp.eval.h5 --out $TMP/f
0 . ! ls $TMP/f/fp.eval.h5 2>/dev/null
0 ^2$ qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --out $TMP/e 2>&1 | grep -c current

0 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 5 --tasks ppl,kld --out $TMP/f
0 since.the.tokens qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 7 --tasks ppl,kld --out $TMP/f
0 since.the.seed qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 7 --tasks ppl,kld --seed 3 --out $TMP/f

# A baseline that differs is refused by name.
4 the.tokens qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 5 --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --baseline $TMP/e/fp.eval.h5 --out $TMP/g
4 the.protocol qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --protocol llamacpp --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --baseline $TMP/e/fp.eval.h5 --out $TMP/g
4 the.precision qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --compute bf16 --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --baseline $TMP/e/fp.eval.h5 --out $TMP/g
4 not.of.the.reference qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --baseline $TMP/e/rtn-b8-g32-sym.eval.h5 --out $TMP/g
2 nothing.to.do qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --baseline $TMP/e/fp.eval.h5 --out $TMP/g
2 same.id qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --out $TMP/g

# Misuse, later versions, bad input: one clear line and the right status.
2 needed qsweep evaluate --text datasets/handbook/evaluation
2 needed qsweep evaluate --model tests/fixtures/tiny
2 --corpus qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --qa datasets/world/gold.jsonl
2 --qa qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --tasks ppl,semantic
4 gold.jsonl qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --qa $TMP
2 21.is.not qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --qa datasets/world --k 21
2 --embed qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --dump embeddings
# embeddings of a file's lines, by an encoder of one's choice
0 . printf 'The pump is red.\n\ncaf\303\251 gate\n' >$TMP/lines && qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 2 --tasks ppl --encoder minilm --encoder-dir tests/fixtures/minilm --embed $TMP/lines --dump embeddings --out $TMP/embed
4 empty : >$TMP/nothing; qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --encoder tfidf --embed $TMP/nothing --dump embeddings
2 word2vec qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --qa datasets/world --encoder word2vec
4 fetch-model qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --qa datasets/world --encoder minilm --encoder-dir $TMP/none
2 speed qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --tasks ppl,speed
2 strided qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --protocol strided
2 fp8 qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --compute fp8
2 --tasks.ppl qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --tasks memory --dump logits
4 needs.1000000 qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 1000000
4 missing.h5 qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --quant $TMP/missing.h5
6 . qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 2 --tasks ppl --out /proc/nowhere
0 . ! ls $TMP/g/*.h5* $TMP/*/*.part.* 2>/dev/null

# A checkpoint is a candidate: what was exported has the perplexity of its artifact, to the last digit. Its latency is timed too.
0 . qsweep export --model tests/fixtures/tiny --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --format gptq --out $TMP/ck/exported
0 . qsweep export --model tests/fixtures/tiny --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --format gguf --out $TMP/ck/exported.gguf
0 exported.gguf:.ppl qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld,latency,memory --checkpoint $TMP/ck/exported --checkpoint $TMP/ck/exported.gguf --quant $TMP/e/rtn-b8-g32-sym.quant.h5 --json --out $TMP/c 2>&1 >$TMP/c.json
0 ^1.1.1.1.1.1$ python3 -c "import json; p={x['config']: x['metrics'] for x in json.load(open('$TMP/c.json'))}; a=p['rtn-b8-g32-sym']; print(*[int(p[i]['ppl']['value']==a['ppl']['value'])*int(p[i]['kld_mean']['value']==a['kld_mean']['value']) for i in ('exported','exported.gguf')], *[int(p[i]['savings_visible']['value']) for i in ('exported','exported.gguf','rtn-b8-g32-sym')], int(p['exported']['decode_ms_tok_p50']['value']>0))"
0 current,.skipped qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --windows 6 --tasks ppl,kld --checkpoint $TMP/ck/exported --out $TMP/c
0 ^exported,gptq,8,32,sym qsweep report --budgets datasets/budgets.csv --out $TMP/c $TMP/c/*.eval.h5; cat $TMP/c/summary.csv
2 same.id qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --checkpoint $TMP/ck/exported --checkpoint $TMP/ck/exported --out $TMP/g
4 d_ff|width|vocabulary qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --checkpoint tests/fixtures/models/llama2 --out $TMP/g
4 missing qsweep evaluate --model tests/fixtures/tiny --text datasets/handbook/evaluation --ctx 64 --checkpoint $TMP/missing.dir --out $TMP/g
0 . ! ls $TMP/g/*.h5* $TMP/c/*.part.* 2>/dev/null
