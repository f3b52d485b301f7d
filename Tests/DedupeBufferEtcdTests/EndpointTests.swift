// SPDX-License-Identifier: Apache-2.0

#if Etcd

import DedupeBuffer
import Testing

@testable import DedupeBufferEtcd

@Suite struct EndpointTests {
    @Test(arguments: [
        ("http://127.0.0.1:2379", "127.0.0.1", 2379, false, "http://127.0.0.1:2379"),
        ("https://etcd-1.example.com:12379", "etcd-1.example.com", 12379, true, "https://etcd-1.example.com:12379"),
        ("HTTPS://host", "host", 2379, true, "https://host:2379"),
        ("host:1", "host", 1, false, "http://host:1"),
        ("host", "host", 2379, false, "http://host:2379"),
        ("http://host/", "host", 2379, false, "http://host:2379"),
        ("http://[::1]:2379", "::1", 2379, false, "http://[::1]:2379"),
        ("[fe80::1]", "fe80::1", 2379, false, "http://[fe80::1]:2379"),
        ("http://my_host:65535", "my_host", 65535, false, "http://my_host:65535"),
    ])
    func url_whenAllowed_isRead(url: String, host: String, port: Int, usesTLS: Bool, description: String) throws {
        let endpoint = try EtcdConfiguration.Endpoint(url)
        #expect(endpoint.host == host)
        #expect(endpoint.port == port)
        #expect(endpoint.usesTLS == usesTLS)
        #expect("\(endpoint)" == description)
        #expect(try EtcdConfiguration.Endpoint(endpoint.description) == endpoint)
    }

    @Test(arguments: [
        "", "http://", "http://:2379", "ftp://host", "unix:///run/etcd", "http://host:", "http://host:0",
        "http://host:65536", "http://host:-1", "http://host:1x", "http://host/path", "http://host?query",
        "http://user@host", "http://::1", "http://::1:2379", "http://[::1", "http://::1]", "http://[host]:1",
        "http://[127.0.0.1]:1", "http://ho st", "http://host:99999999999999999999", "http://h\u{f6}st", "http://[]:1",
        "http://http://host",
    ])
    func url_whenNotAllowed_isRefused(url: String) {
        #expect(throws: DedupeBufferConfiguration.ValidationError.self) { try EtcdConfiguration.Endpoint(url) }
    }

    /// Errors are logged.
    @Test(arguments: ["http://root:secret@etcd-1", "root:secret@etcd-1:2379", "https://secret@host:1"])
    func url_withAUser_isRefused_andNotQuoted(url: String) {
        let error = #expect(throws: DedupeBufferConfiguration.ValidationError.self) {
            try EtcdConfiguration.Endpoint(url)
        }
        #expect(error.map { "\($0)".contains("secret") } == false)
        let other = #expect(throws: DedupeBufferConfiguration.ValidationError.self) {
            try EtcdConfiguration.Endpoint(host: url, usesTLS: false)
        }
        #expect(other.map { "\($0)".contains("secret") } == false)
    }

    @Test func hosts_areToldApart() throws {
        #expect(try EtcdConfiguration.Endpoint("http://1.2.3.4").hostKind == .ipv4)
        #expect(try EtcdConfiguration.Endpoint("http://[::1]").hostKind == .ipv6)
        #expect(try EtcdConfiguration.Endpoint("http://1.2.3.4.example").hostKind == .name)
    }

    @Test func user_inALog_hasNoPassword() {
        let user = EtcdConfiguration.User(name: "ann", password: "secret")
        var dumped = ""
        dump(user, to: &dumped)
        #expect(!"\(user) \(String(reflecting: user)) \(dumped)".contains("secret"))
    }
}

#endif
