// SPDX-License-Identifier: Apache-2.0

#if Etcd

import Foundation

@testable import DedupeBufferEtcd

/// An authority with a certificate for servers and one for clients, made by openssl.
final class Certificates: Sendable {
    let folder: ScratchFolder
    /// Whether servers ask for a client's certificate.
    let requiresClientCertificate: Bool

    /// - Parameters:
    ///   - requiresClientCertificate: whether servers ask for a client's certificate.
    ///   - serverNames: what the server's certificate is good for, as openssl writes it.
    init(requiresClientCertificate: Bool, serverNames: String = "IP:127.0.0.1,DNS:localhost") throws {
        folder = try ScratchFolder()
        self.requiresClientCertificate = requiresClientCertificate
        try execute(
            "openssl",
            [
                "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-subj", "/CN=test authority", "-keyout", path("ca.key"), "-out", path("ca.crt"),
            ])
        try issue("server", extensions: "subjectAltName=\(serverNames)\nextendedKeyUsage=serverAuth,clientAuth")
        try issue("client", extensions: "extendedKeyUsage=clientAuth")
    }

    func path(_ name: String) -> String { "\(folder.path)/\(name)" }

    /// Makes a certificate and its key, and replaces those that there are.
    func issue(_ name: String, extensions: String) throws {
        try extensions.write(toFile: path("\(name).ext"), atomically: true, encoding: .utf8)
        try execute(
            "openssl",
            [
                "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=\(name)",
                "-keyout", path("\(name).key"), "-out", path("\(name).csr"),
            ])
        try execute(
            "openssl",
            [
                "x509", "-req", "-in", path("\(name).csr"), "-CA", path("ca.crt"), "-CAkey", path("ca.key"),
                "-CAcreateserial", "-days", "2", "-extfile", path("\(name).ext"), "-out", path("\(name).crt"),
            ])
    }

    var clientTLS: EtcdConfiguration.TLS {
        var tls = EtcdConfiguration.TLS(certificateAuthorities: path("ca.crt"))
        if requiresClientCertificate {
            tls.identity = .init(certificate: path("client.crt"), privateKey: path("client.key"))
        }
        return tls
    }

    var serverArguments: [String] {
        let arguments = ["--cert-file", path("server.crt"), "--key-file", path("server.key")]
        guard requiresClientCertificate else { return arguments }
        return arguments + ["--client-cert-auth", "--trusted-ca-file", path("ca.crt")]
    }

    var clientArguments: [String] {
        let arguments = ["--cacert", path("ca.crt")]
        guard requiresClientCertificate else { return arguments }
        return arguments + ["--cert", path("client.crt"), "--key", path("client.key")]
    }
}

#endif
