// SPDX-License-Identifier: Apache-2.0

#if Etcd

/// How the transport talks to etcd.
struct EtcdTransportOptions: Sendable {
    var tls: EtcdConfiguration.TLS?
    var user: EtcdConfiguration.User?
    /// For requests with a short answer.
    var requestTimeout = Duration.seconds(5)
    /// For one page of a snapshot.
    var pageTimeout = Duration.seconds(30)
    /// From the last byte that came to a ping. etcd allows no less than 5 seconds.
    var keepaliveInterval = Duration.seconds(20)
    var keepaliveTimeout = Duration.seconds(10)
    /// The largest message that is accepted.
    var maximumMessageBytes = 64 << 20
}

#endif
