# What lies in datasets/ is right, and can be made again (docs/gold-sets.md). STATUS PATTERN COMMAND
0 80_items.*24_long $QS_BUILD/datasets/check datasets/world
0 69_items.*24_long $QS_BUILD/datasets/check datasets/world datasets/handbook
# the world's gold set comes out of its generator, byte for byte
0 . mkdir -p $TMP/world && $QS_BUILD/datasets/world/make_gold --out $TMP/world
0 . for f in sections.md corpus.jsonl gold.jsonl longform.jsonl; do cmp $TMP/world/$f datasets/world/$f || exit 1; done
# a digest per file in MANIFEST.csv
0 ^ok$ tail -n +2 datasets/MANIFEST.csv | while IFS=, read -r name path source sha bytes licence; do [ -d $path ] && set -- $path/*.md || set -- $path; [ "$(cat "$@" | sha256sum | cut -d" " -f1) $(cat "$@" | wc -c)" = "$sha $bytes" ] || echo "$name differs"; done | grep . || echo ok

# wrong offsets, ids, decoys: named with the place
4 line_5:_snippet_S[0-9]*_has cp -r $TMP/world $TMP/w2 && sed -i '5s/"start":[0-9]*,/"start":0,/' $TMP/w2/corpus.jsonl && $QS_BUILD/datasets/check $TMP/w2
4 correct_the_offsets cp -r $TMP/world $TMP/w3 && sed -i '1s/WD-01 /WD-01  /' $TMP/w3/sections.md && $QS_BUILD/datasets/check $TMP/w3
4 at_least_60 cp -r $TMP/world $TMP/w4 && sed -i '60,$d' $TMP/w4/gold.jsonl && $QS_BUILD/datasets/check $TMP/w4
4 at_least_20 cp -r $TMP/world $TMP/w5 && sed -i '20,$d' $TMP/w5/longform.jsonl && $QS_BUILD/datasets/check $TMP/w5
4 none_of_band cp -r $TMP/world $TMP/w6 && sed -i '1,10s/"hard"/"easy"/' $TMP/w6/gold.jsonl && $QS_BUILD/datasets/check $TMP/w6
4 none.jsonl|No_such $QS_BUILD/datasets/check $TMP/nowhere
2 directories $QS_BUILD/datasets/check

# the generator
0 ^{\"prompt\":.*\"answer\": $QS_BUILD/datasets/world/generate --examples 3 --k-max 20
0 ^8$ $QS_BUILD/datasets/world/generate --examples 8 --questions 3 | wc -l
0 . test "$($QS_BUILD/datasets/world/generate --examples 9 --seed 4 | tail -n 3)" = "$($QS_BUILD/datasets/world/generate --first 6 --examples 3 --seed 4)"
0 ^{\"text\": $QS_BUILD/datasets/world/generate --examples 3 --text datasets/handbook/calibration --text-share 1
0 ^0$ $QS_BUILD/datasets/world/generate --examples 500 --ids 32 | grep -cE 'S(0[4-9]|[12])' || true
4 No_such $QS_BUILD/datasets/world/generate --text $TMP/nowhere
2 k-min $QS_BUILD/datasets/world/generate --k-min 5 --k-max 2
2 none_of $QS_BUILD/datasets/world/generate --format xml
6 . $QS_BUILD/datasets/world/generate --examples 1000 >/dev/full
2 --out $QS_BUILD/datasets/world/make_gold

# a gold set as prompts
0 320_prompts_with_5 $QS_BUILD/datasets/gold_prompts --k 5 --paraphrases datasets/world >/dev/null
0 ^80$ $QS_BUILD/datasets/gold_prompts --k 20 datasets/world | grep -c '{"prompt":"[A-Z].*\]\\nQuestion: .*\\nAnswer:\\n","answer":"{\\"answer\\":'
0 Reply_with_one_line $QS_BUILD/datasets/gold_prompts --k 5 --items 1 --instruct datasets/handbook
4 No_such $QS_BUILD/datasets/gold_prompts $TMP/nowhere
2 one_gold_set $QS_BUILD/datasets/gold_prompts
2 240_snippets|--k $QS_BUILD/datasets/gold_prompts --k 300 datasets/world
# every lesson of the demo model, cut short; a second call goes on where the first one stopped
0 reader sed 's/^\(part [^ ]* *[0-9]* *\)[0-9]*/\140/' scripts/train-demo >$TMP/train-demo && MATCH_SEEDS=1 bash $TMP/train-demo $QS_BUILD $TMP/reader --steps 2 --seqlen 512 --batch 1 --lanes 1 --validate-examples 2
