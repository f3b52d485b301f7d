// SPDX-License-Identifier: Apache-2.0

/// What a buffer shares with those who consume its events. Ends with the last of them, and ends what is still pending.
@usableFromInline
final class Storage<Key: DedupeKey, Value: Sendable>: Sendable {
    @usableFromInline let core: Core
    @usableFromInline let delivery: DeliveryLoop

    init(core: Core, delivery: DeliveryLoop) {
        self.core = core
        self.delivery = delivery
    }

    deinit {
        core.destroyLeftovers(DedupeBuffer<Key, Value>.destroy)
    }
}
