// SPDX-License-Identifier: Apache-2.0

#if Etcd

public import DedupeBuffer
public import Logging

/// What a syncer follows, and how.
public struct EtcdConfiguration: Sendable {
    public var endpoints: [Endpoint]
}

#endif
