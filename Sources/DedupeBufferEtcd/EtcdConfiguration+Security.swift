// SPDX-License-Identifier: Apache-2.0

#if Etcd

extension EtcdConfiguration {
    /// How connections are encrypted, and how each side proves its identity.
    ///
    /// The files are read before each snapshot and after each failure, when the syncer makes new
    /// connections. So files that are replaced are used from then on, and open connections stay
    /// open.
    ///
    /// ```swift
    /// configuration.tls = .init(
    ///     certificateAuthorities: "/etc/etcd/ca.crt",
    ///     identity: .init(certificate: "/etc/etcd/me.crt", privateKey: "/etc/etcd/me.key"))
    /// ```
    public struct TLS: Sendable, Hashable {
        /// The certificate that proves the identity of this program, and its key.
        public struct Identity: Sendable, Hashable {
            /// The path of a file in PEM form: the certificate, then those that lead to the root.
            public var certificate: String
            /// The path of a file in PEM form.
            public var privateKey: String

            /// An identity, from two files in PEM form.
            public init(certificate: String, privateKey: String) {
                self.certificate = certificate
                self.privateKey = privateKey
            }
        }

        /// The path of a file in PEM form with the certificates of the authorities that the
        /// members' certificates come from. `nil`: the authorities that the system trusts.
        public var certificateAuthorities: String?
        /// `nil` if the cluster does not ask for one.
        public var identity: Identity?
        /// The name that a member's certificate must have; not an address. `nil`: the endpoint's
        /// host. A certificate for the address that the connection goes to is accepted, too.
        public var serverName: String?

        /// Settings for TLS. The properties describe the parameters.
        public init(
            certificateAuthorities: String? = nil, identity: Identity? = nil, serverName: String? = nil
        ) {
            self.certificateAuthorities = certificateAuthorities
            self.identity = identity
            self.serverName = serverName
        }
    }

    /// A user of etcd. The user needs the permission to read the prefixes.
    ///
    /// The syncer sends the password to etcd. To an endpoint of the scheme `http` it goes
    /// unencrypted, so that everyone on the way can read it.
    public struct User: Sendable, Hashable, CustomStringConvertible {
        /// The user's name.
        public var name: String
        /// The user's password.
        public var password: String

        /// A user.
        public init(name: String, password: String) {
            self.name = name
            self.password = password
        }

        /// The name, without the password, so that a log does not have it.
        public var description: String { name }
    }
}

extension EtcdConfiguration.User: CustomDebugStringConvertible, CustomReflectable {
    /// The name, without the password.
    public var debugDescription: String { name }

    /// The name, without the password.
    public var customMirror: Mirror { Mirror(self, children: ["name": name]) }
}

#endif
