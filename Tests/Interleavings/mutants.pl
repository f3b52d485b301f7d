# SPDX-License-Identifier: Apache-2.0
# The mutants, one per entry: name, build (stops: wrap, with threads that stop), file, old text, new text.
# mutants.sh calls `perl mutants.pl list`, or `perl mutants.pl apply NUMBER CORE`.
use strict;
use warnings;

my @mutants = (
    ['replace: compare-and-swap -> store', 'wrap', 'calls/put_unlocked.c',
     'if (sync_compare_exchange(&entry->word, word, word_pending(word, update->slot, restart, update->deletion))) {',
     'sync_store_release(&entry->word, word_pending(word, update->slot, restart, update->deletion)); {'],
    ['replace under the lock: exchange -> load, store', 'wrap', 'calls/put_locked.c',
     "uint64_t before = sync_exchange(&entry->word, word_pending(word, update->slot, buffer->resync.restart, update->deletion) |\n" .
     "merge_barrier_kept(buffer, word, update));",
     "uint64_t before = sync_load_acquire(&entry->word);\n" .
     "    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->resync.restart, update->deletion));"],
    ['deletion of a key that is not live: exchange -> load, store', 'wrap', 'calls/put_locked.c',
     'uint64_t before = sync_exchange(&entry->word, 0);',
     'uint64_t before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, 0);'],
    ['deletion of a key that is not live: goes by what it saw before', 'wrap', 'calls/put_locked.c',
     'if (update->deletion && !(word & WORD_LIVE))',
     'if (update->deletion && word_deletion_cancels(word))'],
    ['deletion of a key that is not live: put in first, looked at afterwards', 'wrap', 'calls/put_locked.c',
     ['uint64_t before = sync_exchange(&entry->word, 0);', 'if (word_deletion_cancels(before)) {'],
     ['uint64_t before = sync_exchange(&entry->word, word_pending(0, update->slot, buffer->resync.restart, true));',
      'if (word_deletion_cancels(before)) { update->slot = word_slot(sync_exchange(&entry->word, 0));']],
    ['revive: exchange -> load, store', 'wrap', 'calls/put_locked.c',
     "/* An exchange: who read the restart number before the restart may still be replacing the stale payload. */\n" .
     "    before = sync_exchange(&entry->word, word_pending(word, update->slot, buffer->resync.restart, update->deletion) | barrier);",
     "before = sync_load_acquire(&entry->word);\n" .
     "    sync_store_release(&entry->word, word_pending(word, update->slot, buffer->resync.restart, update->deletion) | barrier);"],
    ['take: exchange -> load, store', 'wrap', 'calls/take.c',
     'uint64_t before = sync_exchange(&entry->word, expected & WORD_DELETION ? 0 : word_idle(restart));',
     'uint64_t before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, expected & WORD_DELETION ? 0 : word_idle(restart));'],
    ['take: goes by what it saw before the exchange', 'wrap', 'calls/take.c',
     'if ((before ^ expected) & WORD_DELETION)', 'if (0)'],
    ['clear a live key: exchange -> load, store', 'wrap', 'calls/collect.c',
     'before = sync_exchange(&entry->word, word_idle(word_restart(word)));',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, word_idle(word_restart(word)));'],
    ['clear another key: exchange -> load, store', 'wrap', 'calls/collect.c',
     'before = sync_exchange(&entry->word, 0);',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, 0);'],
    ['clear a live key: makes it seen', 'wrap', 'calls/collect.c',
     'word_idle(word_restart(word))', 'word_idle(buffer->resync.restart)'],
    ['sweep of a stale key: exchange -> load, store', 'wrap', 'calls/status.c',
     'before = sync_exchange(&entry->word, word_pending(WORD_LIVE, 0, buffer->resync.restart, true));',
     'before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, word_pending(WORD_LIVE, 0, buffer->resync.restart, true));'],
    ['sweep of a stale key: loses its payload', 'wrap', 'calls/status.c',
     'detached_add(scope, word_slot(before));', '(void)before;'],
    ['wrap of restart numbers: compare-and-swap -> store', 'wrap', 'calls/status.c',
     "!sync_compare_exchange(&entry->word, word,\n" .
     "                                                   word_make(word_slot(word), WORD_RESTART_OLDER, word_flags(word)))",
     '(sync_store_release(&entry->word, word_make(word_slot(word), WORD_RESTART_OLDER, word_flags(word))), 0)'],
    ['wrap of restart numbers: keeps old numbers', 'wrap', 'calls/status.c',
     'forget_old_restarts(buffer);', '(void)forget_old_restarts;'],
    ['the producer keeps the restart number of an earlier call', 'wrap', 'calls/put_unlocked.c',
     'uint32_t restart = sync_load_relaxed_32(&buffer->resync.restart);',
     'uint32_t restart; if (context->record.ct == NULL) context->record.ct = (void *)(uintptr_t)sync_load_relaxed_32(&buffer->resync.restart); restart = (uint32_t)(uintptr_t)context->record.ct;'],
    ['the restart keeps the latest status received', 'wrap', 'calls/status.c',
     'buffer->resync.latest_received = buffer->resync.latest_taken;', ''],
    ['the producer does not look up again under the lock', 'wrap', 'calls/put_locked.c',
     'number = index_find(&buffer->index, &buffer->entries, put->hashes[i], update->key, update->key_length);',
     'number = 0;'],
    ['the producer takes a fingerprint for a key', 'wrap', 'calls/put_unlocked.c',
     'return sync_load_acquire(&entry->word) != 0 && entry->hash == hash && entry_has_key(entry, update->key, update->key_length);',
     '(void)hash, (void)update; return sync_load_acquire(&entry->word) != 0;'],
    ['the producer frees dead entries at once', 'wrap', 'state/scope.h',
     'retired_add(&scope->buffer->retired, &scope->buffer->entries, number);',
     'arena_give_back(&scope->buffer->entries, number, &scope->reserve);'],
    ['no grace period', 'wrap', 'memory/retired.c',
     'ck_epoch_call(&retired->record, &retired->grace, grace_is_over);',
     'grace_is_over(&retired->grace);'],
    ['the loop that came during a merge is not woken', 'wrap', 'calls/merge.c',
     "scope_lock(scope);\n    notify_refused(scope);\n    scope_unlock(scope);", '(void)notify_refused;'],
    ['the merging producer looks for a sleeping loop before it unlocks', 'wrap', 'calls/merge.c',
     "pthread_mutex_unlock(&scope->buffer->merge_lock.mutex);\n    scope_lock(scope);\n    notify_refused(scope);\n    scope_unlock(scope);",
     "scope_lock(scope);\n    notify_refused(scope);\n    scope_unlock(scope);\n    pthread_mutex_unlock(&scope->buffer->merge_lock.mutex);"],
    ['the finishing loop that came during a merge is not woken', 'wrap', 'calls/merge.c',
     '!ring_is_empty(&buffer->links, buffer->queue.ring) || buffer->end.finishing != FINISHING_NOT ||', '!ring_is_empty(&buffer->links, buffer->queue.ring) ||'],
    ['the sink does not wait for a merge', 'wrap', 'calls/take.c', 'merge_lock_for_sink(scope);', ''],
    ['putting back does not wait for a merge', 'wrap', 'calls/put_back.c', 'merge_lock_for_sink(&put_back.scope);', ''],
    ['the producer does not wait for a merge', 'wrap', 'calls/put_merging.c', 'merge_lock_after_sink(&put->scope);', ''],
    ['the restart does not wait for a merge', 'wrap', 'calls/status.c', "merge_lock(&scope);\n    scope_lock(&scope);", 'scope_lock(&scope);'],
    ['the sink that came tells no producer', 'wrap', 'calls/merge.c', 'pthread_cond_broadcast(&buffer->merge_lock.sink_came);', ''],
    ['the producer sets no merge barrier after a deletion', 'wrap', 'calls/put_locked.c',
     'return word & WORD_DELETION ? WORD_MERGE_BARRIER : word & WORD_MERGE_BARRIER;', 'return word & WORD_MERGE_BARRIER;'],
    ['the suppressed key stays unseen', 'wrap', 'calls/put_locked.c', 'sync_exchange(&entry->word, word_idle(buffer->resync.restart));',
     'sync_exchange(&entry->word, word_idle(word_restart(word)));'],
    ['suppression: exchange -> load, store', 'wrap', 'calls/put_locked.c',
     'uint64_t before = sync_exchange(&entry->word, word_idle(buffer->resync.restart));',
     'uint64_t before = sync_load_acquire(&entry->word); sync_store_release(&entry->word, word_idle(buffer->resync.restart));'],
    ['the producer suppresses a value although another is pending', 'wrap', 'calls/put_locked.c',
     '!(word & WORD_LIVE) || word_is_current(word, buffer->resync.restart))', '!(word & WORD_LIVE))'],
    ['putting back does not restore the revision', 'wrap', 'calls/put_back.c', 'restore_revision(put_back, number, put_back->was.revision);',
     '(void)number;'],
    ['putting back drops a value that was suppressed', 'wrap', 'calls/put_back.c',
     'bool dropped = is_dropped(put_back, word);',
     'bool dropped = put_back->restarted && (is_dropped(put_back, word) || true);'],
    ['the producer queues updates after an overflow', 'wrap', 'calls/put_locked.c', 'if (buffer->end.stopped || buffer->bounds.overflowed) {',
     'if (buffer->end.stopped) {'],
    ['the in-sync after an overflow sweeps', 'wrap', 'calls/status.c', "if (buffer->bounds.overflowed) return PROGRESS_OVERFLOWED;", ''],
    ['the restart does not end an overflow', 'wrap', 'calls/status.c', 'buffer->bounds.overflowed = false;', ''],
    ['the producer leaves its read section before it replaces', 'wrap', 'calls/put.c',
     "put_look_up(put);\n    put_replace_unlocked(put, context);\n    put_rest(put);\n    context_give_back(&buffer->contexts, context);",
     "put_look_up(put);\n    context_give_back(&buffer->contexts, context);\n    put_replace_unlocked(put, context);\n    put_rest(put);"],
    ['the sink retires a borrowed key at once', 'wrap', 'calls/take.c',
     "entry->link = buffer->batch.borrowed;\n        buffer->batch.borrowed = number;", 'retire_entry(scope, number);'],
    ['two updates of one call overtake each other', 'wrap', 'calls/put_unlocked.c',
     "    put->done = i;\n",
     "    put->done = i;\n    if (i + 1 < put->count && put->numbers[i + 1] != 0 && replace_unlocked(put->entries[i + 1], restart, &put->updates[i + 1])) {\n        cdedupe_update_t first = put->updates[i];\n        put->updates[i] = put->updates[i + 1];\n        put->updates[i + 1] = first;\n        put->hashes[i + 1] = put->hashes[i];\n        put->numbers[i + 1] = 0;\n        put->done = ++i;\n    }\n"],
    ['context claim: compare-and-swap -> load, store', 'wrap', 'memory/context.c',
     'if (sync_load_relaxed_32(&record->active) != 0 || !sync_claim(&record->active)) return false;',
     'if (sync_load_relaxed_32(&record->active) != 0) return false; sync_store_relaxed_32(&record->active, 1);'],
    ['the producer gets a dropped payload instead of the displaced one', 'wrap', 'calls/put_locked.c',
     'update->outcome == CDEDUPE_OUTCOME_QUEUED && update->displaced == 0 && buffer->queue.uncleared > 0',
     'update->outcome == CDEDUPE_OUTCOME_QUEUED && buffer->queue.uncleared > 0'],
    ['the producer reads asleep before it locks', 'wrap', 'state/scope.h',
     ["bool wake;    /* Call the hook after unlocking. */", "lock_acquire(&scope->buffer->lock);", "if (scope->buffer->sink.asleep) {"],
     ["bool wake, asleep;", "scope->asleep = scope->buffer->sink.asleep; lock_acquire(&scope->buffer->lock);", "if (scope->asleep) {"]],
    ['the status does not wake the loop', 'wrap', 'state/queue.c', "pending_statuses++;\n    notify(scope);", "pending_statuses++;"],
    ['the finish does not wake the loop', 'wrap', 'calls/life.c',
     "if (ring_is_empty(&buffer->links, buffer->queue.ring))\n        notify(scope);", ''],
    ['the producer queues updates after a finish', 'wrap', 'calls/put_locked.c',
     'if (buffer->end.finishing == FINISHING_WHEN_DELIVERED) {', 'if (0) {'],
    ['the producer queues a status after a finish', 'wrap', 'calls/status.c',
     "if (is_closed(buffer))\n        return PROGRESS_STOPPED;", "if (buffer->end.stopped)\n        return PROGRESS_STOPPED;"],
    ['the restart drops what a finish waits for', 'wrap', 'calls/status.c',
     "if (is_closed(buffer)) {", "if (buffer->end.stopped) {"],
    ['the loop does not end when the queue is empty after a finish', 'wrap', 'calls/take.c',
     'if (buffer->end.finishing != FINISHING_NOT && ring_is_empty(&buffer->links, buffer->queue.ring))', 'if (0)'],
    ['the stop does not wake the loop', 'wrap', 'calls/life.c',
     "if (!merge_is_calling(buffer))\n        notify(&scope);", ''],
    ['putting back a value: exchange -> load, store', 'wrap', 'calls/put_back.c',
     "uint64_t word = sync_exchange(&entry->word, 0);\n\n        if (word & WORD_DELETION) {",
     "uint64_t word = sync_load_relaxed(&entry->word);\n\n        sync_store_release(&entry->word, 0);\n        if (word & WORD_DELETION) {"],
    ['putting back a deletion: exchange -> load, store', 'wrap', 'calls/put_back.c',
     "uint64_t word = sync_exchange(&entry->word, 0);\n\n    sync_store_release(&entry->word, word | WORD_LIVE);",
     "uint64_t word = sync_load_relaxed(&entry->word);\n\n    sync_store_release(&entry->word, word | WORD_LIVE);"],
    ['the restart before the batch drops the items that are put back', 'wrap', 'calls/take.c',
     ["buffer->batch.restarted = false;\n    buffer->batch.barrier", "buffer->sink.asleep = false;\n        if (begin_turn"],
     ['buffer->batch.barrier', "buffer->sink.asleep = false;\n        buffer->batch.restarted = false;\n        if (begin_turn"]],
    ['the sink gets a key twice in one batch', 'tiny', 'calls/take.c',
     'buffer->batch.barrier != buffer->queue.ring', 'ring_first(&buffer->links, buffer->queue.ring) != buffer->queue.ring'],
    ['the sweep misses a deletion that is put back behind it', 'tiny', 'calls/status.c',
     'if (number == 0 && sweep->unseen_generation != buffer->resync.unseen_generation) {', 'if (0) {'],
    ['the loop releases its claim, and its finish stays open', 'wrap', 'calls/take.c',
     'if (buffer->end.finishing != FINISHING_NOT)', 'if (0)'],
    ['two statuses stay side by side', 'wrap', 'state/queue.c',
     'if (is_status(buffer, before) && is_status(buffer, after)) {', 'if (0) {'],
    ['the producer does not read stopped under the lock', 'wrap', 'calls/put_locked.c', 'if (buffer->end.stopped || buffer->bounds.overflowed) {', 'if (buffer->bounds.overflowed) {'],
    ['the sweep goes on after another restart', 'tiny', 'calls/status.c',
     'if (sweep->restart != buffer->resync.restart)', 'if (0)'],
    ['the sweep ends after one lock scope', 'tiny', 'calls/status.c',
     "if (!sweep_entry(&sweep->scope, number))\n            return PROGRESS_NO_MEMORY;\n        sweep->next = number + 1;\n    }\n    return PROGRESS_MORE;",
     "if (!sweep_entry(&sweep->scope, number))\n            return PROGRESS_NO_MEMORY;\n        sweep->next = number + 1;\n    }\n    buffer->resync.deletions_due = false;\n    return PROGRESS_DONE;"],
    ['the producer waits for readers with every new key', 'stops', 'calls/put.h',
     'return retired_count(&buffer->retired) > RETIRED_MAX + buffer->index.count;',
     'return retired_count(&buffer->retired) > 0;'],
    ['the index frees outgrown maps at once', 'tiny', 'state/index.c',
     "if (defer || hook_seen)\n        block_defer(hook_reserve, memory, size);",
     "if (defer || hook_seen)\n        reserve_retire(hook_reserve, memory, block_size(size), SET_ALIGNMENT);"],
    ['the index frees outgrown sets at once', 'tiny', 'state/index.c',
     "if (seen)\n        block_defer(reserve, set, sizeof(*set));",
     "if (seen)\n        reserve_retire(reserve, set, block_size(sizeof(*set)), SET_ALIGNMENT);"],
    ['the producer waits for readers in its read section', 'tiny', 'calls/put.c',
     "put_rest(put);\n    context_give_back(&buffer->contexts, context);\n\n",
     "put_rest(put);\n    if (put->inserted)\n        wait_for_readers(buffer);\n    context_give_back(&buffer->contexts, context);\n\n"],
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
