# qsweep-train: plan, train, resume, kill, refusals. STATUS PATTERN COMMAND
0 --answer-weight qsweep train --help
0 adam8 qsweep train --list

# A corpus of prompts with answers, and an architecture small enough to train here.
0 . sed -e 's/"hidden_size": 64/"hidden_size": 32/' -e 's/"intermediate_size": 160/"intermediate_size": 64/' tests/fixtures/tiny/config.json > $TMP/config.json
0 . python3 -c "import json,random; random.seed(1); print('\n'.join(json.dumps({'prompt': 'valve %d is at %s? ' % (i, 'ABCD'[i % 4]), 'answer': 'at ' + 'ABCD'[i % 4]}) for i in random.sample(range(1000), 400)))" > $TMP/c.jsonl
0 . head -40 $TMP/c.jsonl > $TMP/held.jsonl
0 . echo "exec qsweep-train --quiet --config $TMP/config.json --tokenizer tests/fixtures/tiny/tokenizer.json --data $TMP/c.jsonl --seqlen 128 --batch 4 --warmup 5 --lr 0.01 --steps 60 --checkpoint-every 20 \"\$@\"" > $TMP/t

0 "n_parameters":.3[0-9]* bash $TMP/t --out $TMP/plan --dry-run --json
0 . ! ls $TMP/plan* 2>/dev/null

# It learns, and what it writes is a model that the other stages load.
0 "steps":.60 bash $TMP/t --out $TMP/a --threads 1 --json --validation $TMP/held.jsonl
0 ^ok$ awk -F, 'END { print ($2 < 1.0) ? "ok" : $2 }' $TMP/a/loss.csv
0 ^60, tail -1 $TMP/a/validation.csv
0 . python3 -c "import json; c = json.load(open('$TMP/a/config.json')); g = json.load(open('$TMP/a/generation_config.json')); assert c['torch_dtype'] == 'float16' and g['eos_token_id'] == 0"
0 ppl qsweep-evaluate --model $TMP/a --text datasets/handbook/evaluation --ctx 64 --windows 2 --tasks ppl --out $TMP/e
0 nothing.to.do qsweep-train --config $TMP/config.json --tokenizer tests/fixtures/tiny/tokenizer.json --data $TMP/c.jsonl --seqlen 128 --batch 4 --warmup 5 --lr 0.01 --steps 60 --out $TMP/a

# The same bytes: two threads; stopped after step 33 and resumed; killed behind its first checkpoint and resumed.
0 . bash $TMP/t --out $TMP/b --threads 2
0 . cmp $TMP/a/model.safetensors $TMP/b/model.safetensors
0 . bash $TMP/t --out $TMP/c --stop-after 33 && bash $TMP/t --out $TMP/c && cmp $TMP/a/model.safetensors $TMP/c/model.safetensors
0 . bash -c 'bash $TMP/t --out $TMP/d --threads 1 & for i in $(seq 500); do [ -e $TMP/d.train.h5 ] && break; sleep 0.01; done; kill -9 $!; wait $!; true'
0 . bash $TMP/t --out $TMP/d && cmp $TMP/a/model.safetensors $TMP/d/model.safetensors
0 . bash $TMP/t --out $TMP/e8 --optimizer adam8 --clamp 100 --threads 1 && bash $TMP/t --out $TMP/f8 --optimizer adam8 --clamp 100 --threads 2 --stop-after 41 && bash $TMP/t --out $TMP/f8 --optimizer adam8 --clamp 100 && cmp $TMP/e8/model.safetensors $TMP/f8/model.safetensors
0 . ! cmp $TMP/e8/model.safetensors $TMP/a/model.safetensors
# Other weights to start from: a run of its own, which the plain one does not resume.
0 . bash $TMP/t --out $TMP/s --start reading --steps 8 && bash $TMP/t --out $TMP/s2 --start reading --steps 8 --threads 2 && cmp $TMP/s/model.safetensors $TMP/s2/model.safetensors
4 init bash $TMP/t --out $TMP/s --steps 8
2 neither.plain.nor.reading bash $TMP/t --out $TMP/i --start best
0 . bash $TMP/t --out $TMP/g --init $TMP/a --data datasets/handbook/calibration --steps 3

# Two optimizers on the same training; the report takes the figures into the rows of bitsandbytes (B4, B6).
0 opt_var_noise_pct bash $TMP/t --out $TMP/o.optim.h5 --compare adam32,adam8 --seeds 2 --steps 52 --validation $TMP/held.jsonl --threads 1
0 . $QS_BUILD/tests/tool_artifact $TMP/o.optim.h5
0 . $QS_BUILD/tests/tool_eval_fixture $TMP/eval
[03] . qsweep-report --budgets datasets/budgets.csv --out $TMP/r $TMP/eval/fp.eval.h5 $TMP/eval/nf4-blk64.eval.h5 $TMP/eval/gptq-b4-g64-sym.eval.h5 $TMP/o.optim.h5
0 ^3$ grep -c 'nf4-blk64,opt_[a-z]*.*,\(PASS\|FAIL\),' $TMP/r/verdicts.csv
0 ^0$ grep -c 'gptq.*,opt_' $TMP/r/verdicts.csv || true
2 needs.--validation bash $TMP/t --out $TMP/p.optim.h5 --compare adam32,adam8
2 give.two bash $TMP/t --out $TMP/p.optim.h5 --compare adam32,adam32 --validation $TMP/held.jsonl
2 more.than.50 bash $TMP/t --out $TMP/p.optim.h5 --compare adam32,adam8 --steps 50 --validation $TMP/held.jsonl

# A checkpoint of other options, or a broken one; nothing is overwritten.
4 lr.0.01.*lr.0.02 bash $TMP/t --out $TMP/a --lr 0.02
0 . cp $TMP/a.train.h5 $TMP/k.train.h5 && printf 'x' | dd of=$TMP/k.train.h5 bs=1 seek=60000 conv=notrunc status=none
4 k.train.h5 bash $TMP/t --out $TMP/k
0 . head -c 50000 $TMP/a.train.h5 > $TMP/k.train.h5
4 k.train.h5 bash $TMP/t --out $TMP/k

# Bad input and misuse.
8 diverged|loss.of.row|gradient bash $TMP/t --out $TMP/h --lr 300 --clip 0
0 . ! ls $TMP/h 2>/dev/null
0 . sed '7s/.*/{"prompt": "x"}/' $TMP/c.jsonl > $TMP/bad.jsonl
4 bad.jsonl.line.7 bash $TMP/t --out $TMP/i --data $TMP/bad.jsonl --order file
0 . sed '9s/}/,/' $TMP/c.jsonl > $TMP/bad.jsonl
4 bad.jsonl.line.9 bash $TMP/t --out $TMP/i --data $TMP/bad.jsonl --order file
4 missing bash $TMP/t --out $TMP/i --data $TMP/missing.jsonl
4 vocab_size qsweep-train --config tests/fixtures/train/config.json --tokenizer tests/fixtures/tiny/tokenizer.json --data $TMP/c.jsonl --seqlen 64 --out $TMP/i
4 num_hidden_layers|hidden_size bash $TMP/t --out $TMP/i --init tests/fixtures/tiny
2 multiple.of bash $TMP/t --out $TMP/i --seqlen 100
2 max_position bash $TMP/t --out $TMP/i --seqlen 8192
2 neither bash $TMP/t --out $TMP/i --optimizer sgd
2 neither.8.nor.32 bash $TMP/t --out $TMP/i --embedding-bits 16
2 needed qsweep train --out $TMP/i
6 . bash $TMP/t --out /proc/nowhere/x --steps 1
2 there.already touch $TMP/file && bash $TMP/t --out $TMP/file --steps 1

# A disk that fills up, at whatever file: said, with what to do; the model is there whole or not at all, and the one before it stays.
6 full.*model.safetensors.*File.too.large;.make.room.*starts.anew bash -c 'ulimit -f 16; bash $TMP/t --out $TMP/full --steps 5'
0 . ! ls -d $TMP/full* 2>/dev/null
0 ^6.6.6.6.6.6.0.$ for n in 1 4 16 32 64 128 1024; do bash -c "ulimit -f $n; bash $TMP/t --out $TMP/full --steps 5 2>/dev/null"; echo -n "$? "; [ ! -e $TMP/full ] || [ $(ls $TMP/full | wc -l) = 5 ] || ls $TMP/full; ls -d $TMP/*.part.* 2>/dev/null; done; true
0 . rm -f $TMP/full.train.h5; cp -r $TMP/full $TMP/before; echo mine >$TMP/full/notes
6 starts.anew bash -c 'ulimit -f 16; bash $TMP/t --out $TMP/full --steps 7'
0 ^mine$ diff -r -x notes $TMP/full $TMP/before && cat $TMP/full/notes
0 ^mine.7,$ bash $TMP/t --out $TMP/full --steps 7 && echo $(cat $TMP/full/notes) $(tail -1 $TMP/full/loss.csv | cut -c1-2)
6 goes.on.from.*full.train.h5 rm $TMP/full.train.h5; bash $TMP/t --out $TMP/full --steps 60 --stop-after 20 && bash -c 'ulimit -f 16; bash $TMP/t --out $TMP/full --steps 60'
