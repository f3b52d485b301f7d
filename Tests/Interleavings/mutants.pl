# SPDX-License-Identifier: Apache-2.0
# One mutant per entry: name, build (stops: wrap, with threads stopped for ever), file, what is there, what is put instead.
# mutants.sh calls: perl mutants.pl list, or perl mutants.pl apply NUMBER CORE
use strict;
use warnings;

my @mutants = (
    ['replace: compare-and-swap -> store', 'wrap', 'calls/put.c',
     'if (sync_compare_exchange(&entry->word, word, word_pending(word, update->slot, restart, update->deletion))) {',
     'sync_store_release(&entry->word, word_pending(word, update->slot, restart, update->deletion)); {'],
    ['replace under the lock: exchange -> load, store', 'wrap', 'calls/put.c',
     "uint64_t before = sync_exchange(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion) |\n" .
     "merge_barrier_kept(buffer, word, update));",
     "uint64_t before = sync_load_acquire(&entry->word);\n" .
     "    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion));"],
    ['deletion of an unheard key: exchange -> load, store', 'wrap', 'calls/put.c',
     'uint64_t before = sync_exchange(&entry->word, 0);',
     'uint64_t before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, 0);'],
    ['deletion of an unheard key: by what it saw before', 'wrap', 'calls/put.c',
     'if (update->deletion && !(word & WORD_LIVE))',
     'if (update->deletion && word_deletion_cancels(word))'],
    ['deletion of an unheard key: put in first, looked at afterwards', 'wrap', 'calls/put.c',
     ['uint64_t before = sync_exchange(&entry->word, 0);', 'if (word_deletion_cancels(before)) {'],
     ['uint64_t before = sync_exchange(&entry->word, word_pending(0, update->slot, buffer->restart, true));',
      'if (word_deletion_cancels(before)) { update->slot = word_slot(sync_exchange(&entry->word, 0));']],
    ['revive: exchange -> load, store', 'wrap', 'calls/put.c',
     "/* An exchange: who read the restart number before the restart may still be replacing the stale payload. */\n" .
     "    before = sync_exchange(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion) | alone);",
     "before = sync_load_acquire(&entry->word);\n" .
     "    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->restart, update->deletion) | alone);"],
    ['take: exchange -> load, store', 'wrap', 'calls/take.c',
     'uint64_t before = sync_exchange(&entry->word, expected & WORD_DELETION ? 0 : word_idle(restart));',
     'uint64_t before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, expected & WORD_DELETION ? 0 : word_idle(restart));'],
    ['take: by what it saw before the exchange', 'wrap', 'calls/take.c',
     'if ((before ^ expected) & WORD_DELETION)', 'if (0)'],
    ['clear a live key: exchange -> load, store', 'wrap', 'calls/collect.c',
     'before = sync_exchange(&entry->word, word_idle(word_restart(word)));',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, word_idle(word_restart(word)));'],
    ['clear another key: exchange -> load, store', 'wrap', 'calls/collect.c',
     'before = sync_exchange(&entry->word, 0);',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, 0);'],
    ['clear a live key: it counts as seen', 'wrap', 'calls/collect.c',
     'word_idle(word_restart(word))', 'word_idle(buffer->restart)'],
    ['sweep of a stale key: exchange -> load, store', 'wrap', 'calls/status.c',
     'before = sync_exchange(&entry->word, word_pending(WORD_LIVE, 0, buffer->restart, true));',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, word_pending(WORD_LIVE, 0, buffer->restart, true));'],
    ['sweep of a stale key: its payload is forgotten', 'wrap', 'calls/status.c',
     'detached_add(scope, word_slot(before));', '(void)before;'],
    ['wrap of restart numbers: compare-and-swap -> store', 'wrap', 'calls/status.c',
     "!sync_compare_exchange(&entry->word, word,\n" .
     "                                                   word_make(word_slot(word), WORD_RESTART_OLDER, word_flags(word)))",
     '(sync_store_release(&entry->word, word_make(word_slot(word), WORD_RESTART_OLDER, word_flags(word))), 0)'],
    ['wrap of restart numbers: old ones stay', 'wrap', 'calls/status.c',
     'forget_old_restarts(buffer);', '(void)forget_old_restarts;'],
    ['restart number kept from an earlier call', 'wrap', 'calls/put.c',
     'uint32_t restart = sync_load_relaxed_32(&buffer->restart);',
     'uint32_t restart; if (context->record.ct == NULL) context->record.ct = (void *)(uintptr_t)sync_load_relaxed_32(&buffer->restart); restart = (uint32_t)(uintptr_t)context->record.ct;'],
    ['restart: latest received stays', 'wrap', 'calls/status.c',
     'buffer->latest_received = buffer->latest_taken;', ''],
    ['not looked up again under the lock', 'wrap', 'calls/put.c',
     'number = index_find(&buffer->index, &buffer->entries, put->hashes[i], update->key, update->key_length);',
     'number = 0;'],
    ['a tag is taken for a key', 'wrap', 'calls/put.c',
     "return sync_load_acquire(&entry->word) != 0 && entry->hash == hash && entry->key_length == update->key_length &&\n" .
     "           (update->key_length == 0 || memcmp(entry->key, update->key, update->key_length) == 0);",
     '(void)hash, (void)update; return sync_load_acquire(&entry->word) != 0;'],
    ['dead entries are freed at once', 'wrap', 'state/buffer.h',
     'retired_add(&scope->buffer->retired, &scope->buffer->entries, number);',
     'arena_give_back(&scope->buffer->entries, number, &scope->reserve);'],
    ['no grace period', 'wrap', 'memory/retired.c',
     'ck_epoch_call(&retired->record, &retired->grace, grace_is_over);',
     'grace_is_over(&retired->grace);'],
    ['a loop that came while a merge ran is not woken', 'wrap', 'calls/merge.c',
     "scope_lock(scope);\n    notify_refused(scope);\n    scope_unlock(scope);", '(void)notify_refused;'],
    ['a merging call looks for a sleeping loop before it unlocks', 'wrap', 'calls/merge.c',
     "pthread_mutex_unlock(&scope->buffer->merge_lock.mutex);\n    scope_lock(scope);\n    notify_refused(scope);\n    scope_unlock(scope);",
     "scope_lock(scope);\n    notify_refused(scope);\n    scope_unlock(scope);\n    pthread_mutex_unlock(&scope->buffer->merge_lock.mutex);"],
    ['a finishing loop that came while a merge ran is not woken', 'wrap', 'calls/merge.c',
     '!ring_is_empty(&buffer->links, buffer->ring) || buffer->finishing != FINISHING_NOT ||', '!ring_is_empty(&buffer->links, buffer->ring) ||'],
    ['a take does not wait for a merge', 'wrap', 'calls/take.c', 'merge_lock_for_sink(scope);', ''],
    ['putting back does not wait for a merge', 'wrap', 'calls/put_back.c', 'merge_lock_for_sink(&put_back.scope);', ''],
    ['a put does not wait for a merge', 'wrap', 'calls/put.c', 'merge_lock_after_sink(&put->scope);', ''],
    ['a restart does not wait for a merge', 'wrap', 'calls/status.c', "merge_lock(&scope);\n    scope_lock(&scope);", 'scope_lock(&scope);'],
    ['a sink that came tells no put', 'wrap', 'calls/merge.c', 'pthread_cond_broadcast(&buffer->merge_lock.sink_came);', ''],
    ['a value after a deletion is not marked', 'wrap', 'calls/put.c',
     'return word & WORD_DELETION ? WORD_MERGE_BARRIER : word & WORD_MERGE_BARRIER;', 'return word & WORD_MERGE_BARRIER;'],
    ['what is suppressed stays unseen', 'wrap', 'calls/put.c', 'sync_exchange(&entry->word, word_idle(buffer->restart));',
     'sync_exchange(&entry->word, word_idle(word_restart(word)));'],
    ['suppression: exchange -> load, store', 'wrap', 'calls/put.c',
     'uint64_t before = sync_exchange(&entry->word, word_idle(buffer->restart));',
     'uint64_t before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, word_idle(buffer->restart));'],
    ['suppressed though something else is pending', 'wrap', 'calls/put.c',
     '!(word & WORD_LIVE) || word_is_current(word, buffer->restart))', '!(word & WORD_LIVE))'],
    ['putting_back leaves the revision', 'wrap', 'calls/put_back.c', 'restore_revision(put_back, number, put_back->was.revision);',
     '(void)number;'],
    ['putting_back drops what was suppressed', 'wrap', 'calls/put_back.c',
     'bool dropped = is_dropped(put_back, word);',
     'bool dropped = put_back->restarted && (is_dropped(put_back, word) || true);'],
    ['updates after an overflow are queued', 'wrap', 'calls/put.c', 'if (buffer->stopped || buffer->overflowed) {',
     'if (buffer->stopped) {'],
    ['an in-sync after an overflow sweeps', 'wrap', 'calls/status.c', "if (buffer->overflowed) return PROGRESS_OVERFLOWED;", ''],
    ['a restart does not end an overflow', 'wrap', 'calls/status.c', 'buffer->overflowed = false;', ''],
    ['a section is left before the replacing', 'wrap', 'calls/put.c',
     "look_up(put);\n    replace_all_unlocked(put, context);\n    put_rest(put);\n    end_read_section(buffer, context);",
     "look_up(put);\n    end_read_section(buffer, context);\n    replace_all_unlocked(put, context);\n    put_rest(put);"],
    ['a key that is lent goes to limbo at once', 'wrap', 'calls/take.c',
     "entry->link = buffer->borrowed;\n        buffer->borrowed = number;", 'retire_entry(scope, number);'],
    ['updates from one call pass each other', 'wrap', 'calls/put.c',
     "    put->done = i;\n",
     "    put->done = i;\n    if (i + 1 < put->count && put->numbers[i + 1] != 0 && replace_unlocked(put->entries[i + 1], restart, &put->updates[i + 1])) {\n        cdedupe_update_t first = put->updates[i];\n        put->updates[i] = put->updates[i + 1];\n        put->updates[i + 1] = first;\n        put->hashes[i + 1] = put->hashes[i];\n        put->numbers[i + 1] = 0;\n        put->done = ++i;\n    }\n"],
    ['a context is claimed by load, store', 'wrap', 'memory/context.c',
     'return sync_load_relaxed(&context->claimed) == 0 && sync_compare_exchange(&context->claimed, 0, 1);',
     'if (sync_load_relaxed(&context->claimed) != 0) return false; sync_store_release(&context->claimed, 1); return true;'],
    ['a payload from the garbage takes the place of the displaced one', 'wrap', 'calls/put.c',
     'update->outcome == CDEDUPE_OUTCOME_QUEUED && update->displaced == 0 && buffer->uncleared > 0',
     'update->outcome == CDEDUPE_OUTCOME_QUEUED && buffer->uncleared > 0'],
    ['asleep is read before the lock', 'wrap', 'state/buffer.h',
     ["bool wake;    /* Call the hook after unlocking. */", "lock_acquire(&scope->buffer->lock);", "if (scope->buffer->asleep) {"],
     ["bool wake, asleep;", "scope->asleep = scope->buffer->asleep; lock_acquire(&scope->buffer->lock);", "if (scope->asleep) {"]],
    ['a status wakes nobody', 'wrap', 'calls/status.c', "pending_statuses++;\n    notify(scope);", "pending_statuses++;"],
    ['a finish wakes nobody', 'wrap', 'calls/life.c',
     "if (ring_is_empty(&buffer->links, buffer->ring))\n        notify(scope);", ''],
    ['what comes after a finish is queued', 'wrap', 'calls/put.c',
     'if (buffer->finishing == FINISHING_WHEN_DELIVERED) {', 'if (0) {'],
    ['a status after a finish is queued', 'wrap', 'calls/status.c',
     'if (buffer->stopped || buffer->finishing == FINISHING_WHEN_DELIVERED)', 'if (buffer->stopped)'],
    ['a finish does not end with the queue', 'wrap', 'calls/take.c',
     'if (buffer->finishing != FINISHING_NOT && ring_is_empty(&buffer->links, buffer->ring))', 'if (0)'],
    ['a stop wakes nobody', 'wrap', 'calls/life.c',
     "buffer->finishing = FINISHING_NOT;\n    notify(&scope);", "buffer->finishing = FINISHING_NOT;"],
    ['put_back of a value: exchange -> load, store', 'wrap', 'calls/put_back.c',
     "uint64_t word = sync_exchange(&entry->word, 0);\n\n        if (word & WORD_DELETION) {",
     "uint64_t word = sync_load_relaxed(&entry->word);\n\n        sync_store_release(&entry->word, 0);\n        if (word & WORD_DELETION) {"],
    ['put_back of a deletion: exchange -> load, store', 'wrap', 'calls/put_back.c',
     "uint64_t word = sync_exchange(&entry->word, 0);\n\n    sync_store_release(&entry->word, word | WORD_LIVE);",
     "uint64_t word = sync_load_relaxed(&entry->word);\n\n    sync_store_release(&entry->word, word | WORD_LIVE);"],
    ['a restart before the batch drops what is put_back', 'wrap', 'calls/take.c',
     ["buffer->restarted = false;\n    buffer->batch_barrier", "buffer->asleep = false;\n        if (begin_turn"],
     ['buffer->batch_barrier', "buffer->asleep = false;\n        buffer->restarted = false;\n        if (begin_turn"]],
    ['a batch has a key twice', 'tiny', 'calls/take.c',
     'buffer->batch_barrier != buffer->ring', 'ring_first(&buffer->links, buffer->ring) != buffer->ring'],
    ['a sweep misses what is put_back behind it', 'tiny', 'calls/status.c',
     'if (number == 0 && sweep->unseen_generation != buffer->unseen_generation) {', 'if (0) {'],
    ['a loop goes, and its finish waits on', 'wrap', 'calls/take.c',
     'if (buffer->finishing != FINISHING_NOT)', 'if (0)'],
    ['statuses stay neighbours', 'wrap', 'state/queue.c',
     'if (is_status(buffer, before) && is_status(buffer, after)) {', 'if (0) {'],
    ['stopped is not looked at under the lock', 'wrap', 'calls/put.c', 'if (buffer->stopped || buffer->overflowed) {', 'if (buffer->overflowed) {'],
    ['a sweep goes on after another restart', 'tiny', 'calls/status.c',
     'if (sweep->restart != buffer->restart)', 'if (0)'],
    ['a sweep is over after one hold', 'tiny', 'calls/status.c',
     "if (!sweep_entry(&sweep->scope, number))\n            return PROGRESS_NO_MEMORY;\n        sweep->next = number + 1;\n    }\n    return PROGRESS_MORE;",
     "if (!sweep_entry(&sweep->scope, number))\n            return PROGRESS_NO_MEMORY;\n        sweep->next = number + 1;\n    }\n    buffer->deletions_due = false;\n    return PROGRESS_DONE;"],
    ['adding a key waits for readers', 'stops', 'calls/put.c',
     'wait = retired_count(&buffer->retired) > RETIRED_MAX + buffer->index.count;',
     'wait = retired_count(&buffer->retired) > 0;'],
    ['outgrown maps are freed at once', 'tiny', 'state/index.c',
     "if (defer || hook_seen)\n        block_defer(hook_reserve, memory, size);",
     "if (defer || hook_seen)\n        reserve_retire(hook_reserve, memory, block_size(size), SET_ALIGNMENT);"],
    ['outgrown sets are freed at once', 'tiny', 'state/index.c',
     "if (seen)\n        block_defer(reserve, set, sizeof(*set));",
     "if (seen)\n        reserve_retire(reserve, set, block_size(sizeof(*set)), SET_ALIGNMENT);"],
    ['waiting for readers in a section', 'tiny', 'calls/put.c',
     "put_rest(put);\n    end_read_section(buffer, context);\n\n",
     "put_rest(put);\n    if (put->inserted)\n        wait_for_readers(buffer);\n    end_read_section(buffer, context);\n\n"],
);

sub replace_all {
    my ($file, $there, $instead) = @_;
    my @there = ref $there ? @$there : ($there);
    my @instead = ref $instead ? @$instead : ($instead);

    open(my $in, '<', $file) or die "$file: $!";
    my $text = do { local $/; <$in> };
    close($in);
    for my $i (0 .. $#there) {
        # Only tokens are compared: layout and comments do not count.
        my $code = $there[$i] =~ s{/\*.*?\*/}{ }gsr;
        my $tokens = join '(?:\s|/\*.*?\*/)*', map { quotemeta } $code =~ /\w+|\S/g;
        $text =~ s/$tokens/$instead[$i]/s or die "$file: not there any more: $there[$i]\n";
    }
    open(my $out, '>', $file) or die "$file: $!";
    print $out $text;
    close($out);
}

if ($ARGV[0] eq 'list') {
    print "$_|$mutants[$_][1]|$mutants[$_][2]|$mutants[$_][0]\n" for 0 .. $#mutants;
} else {
    my $mutant = $mutants[$ARGV[1]];
    replace_all("$ARGV[2]/$mutant->[2]", $mutant->[3], $mutant->[4]);
}
