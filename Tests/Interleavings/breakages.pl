# SPDX-License-Identifier: Apache-2.0
# One breakage per entry: name, build (stops: wrap, with threads stopped for ever), file, what is there, what is put instead.
# bites.sh calls: perl breakages.pl list, or perl breakages.pl apply NUMBER CORE
use strict;
use warnings;

my @breakages = (
    ['replace: compare-and-swap -> store', 'wrap', 'source.c',
     'if (sync_compare_exchange(&entry->word, word, word_pending(word, update->slot, restart, update->deletion))) {',
     'sync_store_release(&entry->word, word_pending(word, update->slot, restart, update->deletion)); {'],
    ['replace under the lock: exchange -> load, store', 'wrap', 'source.c',
     "/* Both, with replace_unlocked() and take_word(): our payload before the word, the displaced one after it. */\n" .
     "    uint64_t before = sync_exchange(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));",
     "uint64_t before = sync_load_acquire(&entry->word);\n" .
     "    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));"],
    ['deletion of an unheard key: exchange -> load, store', 'wrap', 'source.c',
     'uint64_t before = sync_exchange(&entry->word, 0);',
     'uint64_t before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, 0);'],
    ['deletion of an unheard key: by what it saw before', 'wrap', 'source.c',
     'if (update->deletion && !(word & WORD_LIVE))',
     'if (update->deletion && word_deletion_cancels(word))'],
    ['deletion of an unheard key: put in first, looked at afterwards', 'wrap', 'source.c',
     ['uint64_t before = sync_exchange(&entry->word, 0);', 'if (word_deletion_cancels(before)) {'],
     ['uint64_t before = sync_exchange(&entry->word, word_pending(0, update->slot, buffer->restart, true));',
      'if (word_deletion_cancels(before)) { update->slot = word_slot(sync_exchange(&entry->word, 0));']],
    ['revive: exchange -> load, store', 'wrap', 'source.c',
     "/* An exchange: who read the restart number before the restart may still be replacing the stale payload. */\n" .
     "    before = sync_exchange(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));",
     "before = sync_load_acquire(&entry->word);\n" .
     "    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));"],
    ['take: exchange -> load, store', 'wrap', 'sink.c',
     'uint64_t before = sync_exchange(&entry->word, expected & WORD_DELETION ? 0 : word_idle(restart));',
     'uint64_t before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, expected & WORD_DELETION ? 0 : word_idle(restart));'],
    ['take: by what it saw before the exchange', 'wrap', 'sink.c',
     'if ((before ^ expected) & WORD_DELETION)', 'if (0)'],
    ['clear a live key: exchange -> load, store', 'wrap', 'garbage.c',
     'before = sync_exchange(&entry->word, word_idle(word_restart(word)));',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, word_idle(word_restart(word)));'],
    ['clear another key: exchange -> load, store', 'wrap', 'garbage.c',
     'before = sync_exchange(&entry->word, 0);',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, 0);'],
    ['clear a live key: it counts as seen', 'wrap', 'garbage.c',
     'word_idle(word_restart(word))', 'word_idle(buffer->restart)'],
    ['sweep of a stale key: exchange -> load, store', 'wrap', 'status.c',
     'before = sync_exchange(&entry->word, word_pending(WORD_LIVE, 0, buffer->restart, true));',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, word_pending(WORD_LIVE, 0, buffer->restart, true));'],
    ['sweep of a stale key: its payload is forgotten', 'wrap', 'status.c',
     'orphan_add(hold, word_payload(before), link_tag(buffer, entry->link));', '(void)before;'],
    ['wrap of restart numbers: compare-and-swap -> store', 'wrap', 'status.c',
     "!sync_compare_exchange(&entry->word, word,\n" .
     "                                                   word_make(word_slot(word), WORD_RESTART_OLDER, word_flags(word)))",
     '(sync_store_release(&entry->word, word_make(word_slot(word), WORD_RESTART_OLDER, word_flags(word))), 0)'],
    ['wrap of restart numbers: old ones stay', 'wrap', 'status.c',
     'forget_old_restarts(buffer);', '(void)forget_old_restarts;'],
    ['restart number kept from an earlier call', 'wrap', 'source.c',
     'uint32_t restart = sync_load_relaxed_32(&buffer->restart);',
     'uint32_t restart; if (context->record.ct == NULL) context->record.ct = (void *)(uintptr_t)sync_load_relaxed_32(&buffer->restart); restart = (uint32_t)(uintptr_t)context->record.ct;'],
    ['restart: latest received stays', 'wrap', 'status.c',
     'buffer->latest_received = buffer->latest_taken;', ''],
    ['not looked up again under the lock', 'wrap', 'source.c',
     'number = index_find(&buffer->index, &buffer->entries, put->hashes[i], update->key, update->key_length);',
     'number = 0;'],
    ['a tag is taken for a key', 'wrap', 'source.c',
     "return sync_load_acquire(&entry->word) != 0 && entry->hash == hash && entry->key_length == update->key_length &&\n" .
     "           (update->key_length == 0 || memcmp(entry->key, update->key, update->key_length) == 0);",
     '(void)hash, (void)update; return sync_load_acquire(&entry->word) != 0;'],
    ['dead entries are freed at once', 'wrap', 'limbo.c',
     'struct entry_generation *open = &hold->buffer->limbo.open;',
     'struct entry_generation *open = &hold->buffer->limbo.open; if (1) { entry_free(hold, entry); return; }'],
    ['no grace period', 'wrap', 'limbo.c',
     'ck_epoch_call(&limbo->record, &limbo->entry_grace, entry_grace_is_over);',
     'entry_grace_is_over(&limbo->entry_grace);'],
    ['a section is left before the replacing', 'wrap', 'source.c',
     "look_up(&put);\n    replace_all_unlocked(&put, context);\n    put_rest(&put);\n    context_leave(buffer, context);",
     "look_up(&put);\n    context_leave(buffer, context);\n    replace_all_unlocked(&put, context);\n    put_rest(&put);"],
    ['a key that is lent goes to limbo at once', 'wrap', 'sink.c',
     "entry->link = buffer->lent;\n        buffer->lent = number;", 'limbo_add(hold, number);'],
    ['updates from one call pass each other', 'wrap', 'source.c',
     "    put->done = i;\n",
     "    put->done = i;\n    if (i + 1 < put->count && put->numbers[i + 1] != 0 && replace_unlocked(buffer, put->entries[i + 1], restart, &put->updates[i + 1])) {\n        cdedupe_update_t first = put->updates[i];\n        put->updates[i] = put->updates[i + 1];\n        put->updates[i + 1] = first;\n        put->hashes[i + 1] = put->hashes[i];\n        put->numbers[i + 1] = 0;\n        put->done = ++i;\n    }\n"],
    ['a context is claimed by load, store', 'wrap', 'context.c',
     'return sync_load_relaxed(&context->claimed) == 0 && sync_compare_exchange(&context->claimed, 0, 1);',
     'if (sync_load_relaxed(&context->claimed) != 0) return false; sync_store_release(&context->claimed, 1); return true;'],
    ['a payload from the garbage takes the place of the displaced one', 'wrap', 'source.c',
     'update->outcome == CDEDUPE_QUEUED && update->displaced == 0 && buffer->uncleared > 0',
     'update->outcome == CDEDUPE_QUEUED && buffer->uncleared > 0'],
    ['asleep is read before the lock', 'wrap', 'buffer.h',
     ["bool wake;    /* Call the hook after unlocking. */", "lock_take(&hold->buffer->lock);", "if (hold->buffer->asleep) {"],
     ["bool wake, asleep;", "hold->asleep = hold->buffer->asleep; lock_take(&hold->buffer->lock);", "if (hold->asleep) {"]],
    ['a status wakes nobody', 'wrap', 'status.c', "pending_statuses++;\n    notify(hold);", "pending_statuses++;"],
    ['a finish wakes nobody', 'wrap', 'buffer.c',
     "if (buffer->last_owed == buffer->ring)\n        notify(hold);", ''],
    ['a stop wakes nobody', 'wrap', 'buffer.c',
     "buffer->finishing = FINISHING_NOT;\n    notify(&hold);", "buffer->finishing = FINISHING_NOT;"],
    ['untake of a value: exchange -> load, store', 'wrap', 'untake.c',
     "uint64_t word = sync_exchange(&entry->word, 0);\n\n        if (word & WORD_DELETION) {",
     "uint64_t word = sync_load_relaxed(&entry->word);\n\n        sync_store_release(&entry->word, 0);\n        if (word & WORD_DELETION) {"],
    ['untake of a deletion: exchange -> load, store', 'wrap', 'untake.c',
     "uint64_t word = sync_exchange(&entry->word, 0);\n\n    sync_store_release(&entry->word, word | WORD_LIVE);",
     "uint64_t word = sync_load_relaxed(&entry->word);\n\n    sync_store_release(&entry->word, word | WORD_LIVE);"],
    ['a restart before the batch drops what is untaken', 'wrap', 'sink.c',
     ["if (*count == 0)\n        buffer->restarted = false;\n    else if (buffer->restarted)", "buffer->asleep = false;\n        do {"],
     ['if (*count > 0 && buffer->restarted)', "buffer->asleep = false;\n        buffer->restarted = false;\n        do {"]],
    ['a sweep misses what is untaken behind it', 'tiny', 'status.c',
     'if (number == 0 && sweep->made_unseen != buffer->made_unseen) {', 'if (0) {'],
    ['a loop goes, and its finish waits on', 'wrap', 'sink.c',
     'if (buffer->finishing != FINISHING_NOT)', 'if (0)'],
    ['statuses stay neighbours', 'wrap', 'buffer.c',
     'if (is_status(buffer, before) && is_status(buffer, after)) {', 'if (0) {'],
    ['stopped is not looked at under the lock', 'wrap', 'source.c', 'if (buffer->stopped || buffer->overflowed) {', 'if (0) {'],
    ['a sweep goes on after another restart', 'tiny', 'status.c',
     'if (sweep->restart != buffer->restart)', 'if (0)'],
    ['a sweep is over after one hold', 'tiny', 'status.c',
     "if (!sweep_entry(&sweep->hold, number))\n            return PROGRESS_NO_MEMORY;\n        sweep->next = number + 1;\n    }\n    return PROGRESS_MORE;",
     "if (!sweep_entry(&sweep->hold, number))\n            return PROGRESS_NO_MEMORY;\n        sweep->next = number + 1;\n    }\n    buffer->resync = false;\n    return PROGRESS_DONE;"],
    ['adding a key waits for readers', 'stops', 'source.c',
     'wait = limbo_count(&buffer->limbo) > LIMBO_MAX + buffer->index.count;',
     'wait = limbo_count(&buffer->limbo) > 0;'],
    ['outgrown maps are freed at once', 'tiny', 'index.c',
     "if (defer || hook_seen)\n        block_defer(hook_reserve, memory, size);",
     "if (defer || hook_seen)\n        reserve_retire(hook_reserve, memory, block_size(size), SET_ALIGNMENT);"],
    ['outgrown sets are freed at once', 'tiny', 'index.c',
     "if (seen)\n        block_defer(reserve, set, sizeof(*set));",
     "if (seen)\n        reserve_retire(reserve, set, block_size(sizeof(*set)), SET_ALIGNMENT);"],
    ['waiting for readers in a section', 'tiny', 'source.c',
     "put_rest(&put);\n    context_leave(buffer, context);\n    context_give_back(context);\n\n",
     "put_rest(&put);\n    if (put.inserted)\n        wait_for_readers(buffer);\n    context_leave(buffer, context);\n    context_give_back(context);\n\n"],
);

sub replace_all {
    my ($file, $there, $instead) = @_;
    my @there = ref $there ? @$there : ($there);
    my @instead = ref $instead ? @$instead : ($instead);

    open(my $in, '<', $file) or die "$file: $!";
    my $text = do { local $/; <$in> };
    close($in);
    for my $i (0 .. $#there) {
        my $at = index($text, $there[$i]);
        die "$file: not there any more: $there[$i]\n" if $at < 0;
        substr($text, $at, length($there[$i])) = $instead[$i];
    }
    open(my $out, '>', $file) or die "$file: $!";
    print $out $text;
    close($out);
}

if ($ARGV[0] eq 'list') {
    print "$_|$breakages[$_][1]|$breakages[$_][2]|$breakages[$_][0]\n" for 0 .. $#breakages;
} else {
    my $breakage = $breakages[$ARGV[1]];
    replace_all("$ARGV[2]/$breakage->[2]", $breakage->[3], $breakage->[4]);
}
