// SPDX-License-Identifier: Apache-2.0

#if Etcd

import ArgumentParser
import DedupeBufferEtcd

/// `dedupe etcd`: prefixes of an etcd cluster instead of a file.
struct EtcdCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: Subcommand.etcd.rawValue,
        abstract: "Follow prefixes of an etcd cluster, at the pace of the reader.",
        usage: "dedupe etcd [--endpoint <url> ...] --prefix <prefix> ... [<options>]",
        discussion: EtcdHelp.discussion)

    @OptionGroup(title: "What is followed") var source: EtcdSourceOptions
    @OptionGroup(title: "How it is written") var form: EtcdFormOptions
    @OptionGroup(title: "How it runs") var pace: PaceOptions
    @OptionGroup(title: "How it runs") var end: EndOptions

    @Flag(
        help: """
            End after the first in-sync: write what the prefixes have, and no changes. A cluster that cannot be \
            reached is waited for, without a limit.
            """)
    var once = false

    func run() throws {
        let status = EtcdRun(source: source, form: form, pace: pace, end: end, endsInSync: once).run()
        if status != 0 {
            throw ExitCode(status)
        }
    }
}

/// The cluster, its keys, and how to get at them.
struct EtcdSourceOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            A member of the cluster, such as http://127.0.0.1:2379, which is the default, or https://etcd-1:2379. \
            Repeat it for the other members: one is used at a time, and the next one after a failure.
            """, valueName: "url"))
    var endpoint: [String] = []

    @Option(
        help: ArgumentHelp(
            "Follow the keys that begin with this text. Repeat it for several; an empty one is all keys.",
            valueName: "prefix"))
    var prefix: [String]

    @Option(
        help: ArgumentHelp(
            "The user that reads. Needs --password-file. To http: the password goes unencrypted.", valueName: "name"))
    var user: String?

    @Option(
        help: ArgumentHelp("A file whose first line is the user's password.", valueName: "file"), completion: .file())
    var passwordFile: String?

    @Option(
        help: ArgumentHelp(
            """
            The certificates, in PEM form, that the members' certificates come from. Otherwise the system's. This file \
            and the next two are read again for later connections, so they must be regular files.
            """,
            valueName: "file"), completion: .file())
    var ca: String?

    @Option(
        help: ArgumentHelp("The certificate of this program, in PEM form. Needs --key.", valueName: "file"),
        completion: .file())
    var cert: String?

    @Option(help: ArgumentHelp("The private key of --cert, in PEM form.", valueName: "file"), completion: .file())
    var key: String?

    func validate() throws {
        if (user == nil) != (passwordFile == nil) {
            throw ValidationError("--user and --password-file need each other.")
        }
        if (cert == nil) != (key == nil) {
            throw ValidationError("--cert and --key need each other.")
        }
        try validatePrefixes()
        if let option = RawArguments.firstRepeated(of: Self.single) {
            throw ValidationError("\(option) is given twice.")
        }
        let configuration = try configuration()
        if configuration.tls != nil && !configuration.endpoints.allSatisfy(\.usesTLS) {
            throw ValidationError("--ca, --cert and --key need endpoints that begin with https:.")
        }
        if user?.isEmpty == true {
            throw ValidationError("--user needs a name.")
        }
        do {
            try configuration.validate()
        } catch {
            throw ValidationError("\(error).")
        }
    }

    /// The options of which the last one would count, to the surprise of the user.
    private static let single = ["--user", "--password-file", "--ca", "--cert", "--key"]

    /// etcd compares bytes. Two strings of Swift may be equal although their bytes are not.
    private func validatePrefixes() throws {
        for (i, prefix) in prefix.enumerated() {
            let others = self.prefix.enumerated().filter { $0.offset != i }
            if let other = others.first(where: { prefix.utf8.starts(with: $0.element.utf8) }) {
                throw ValidationError("--prefix \(prefix) is part of --prefix \(other.element).")
            }
        }
        if prefix.contains(where: { $0.unicodeScalars.contains("\u{FFFD}") }) && !RawArguments.areUTF8 {
            throw ValidationError("--prefix must be UTF-8.")
        }
    }

    /// What the options say, without the user.
    func configuration() throws -> EtcdConfiguration {
        let urls = endpoint.isEmpty ? ["http://127.0.0.1:2379"] : endpoint
        var configuration = EtcdConfiguration(
            endpoints: try urls.map(Self.endpoint), prefixes: prefix.map { Array($0.utf8) })
        if ca != nil || cert != nil {
            configuration.tls = .init(certificateAuthorities: ca)
            if let cert, let key {
                configuration.tls?.identity = .init(certificate: cert, privateKey: key)
            }
        }
        return configuration
    }

    private static func endpoint(_ url: String) throws -> EtcdConfiguration.Endpoint {
        guard url.contains("://") else {
            throw ValidationError("--endpoint \(url): it must begin with http:// or https://.")
        }
        guard !url.contains(",") else {
            throw ValidationError("--endpoint \(url): give each member an --endpoint of its own.")
        }
        do {
            return try EtcdConfiguration.Endpoint(url)
        } catch {
            throw ValidationError("--endpoint \(url): it must be \(error.requirement).")
        }
    }
}

/// How keys and values become JSON.
struct EtcdFormOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            What values are: string, json (the value is passed through; null is refused), or base64 (any bytes, \
            written as base64).
            """, valueName: "form"))
    var values = ValueNotation.string

    @Option(help: ArgumentHelp("What keys are: string, or base64 (any bytes, written as base64).", valueName: "form"))
    var keys = KeyNotation.string
}

/// What the help says besides the options.
enum EtcdHelp {
    static let discussion = """
        Writes every key that begins with a prefix, then every change, as the objects that dedupe reads and writes. \
        While the reader is busy a newer value takes the place of the older one. So etcd always has a fast client, and \
        memory is bounded by the number of keys. After a lost connection it goes on where it was. If etcd no longer \
        has what was missed, everything is read again, and keys that are gone are deleted.

        OUTPUT
          {"restart":true}               forget what an earlier run wrote
          {"status":"resync"}            everything follows; later in the run
                                         only what has changed
          {"type":"new","key":"/a","value":"v","revision":7}
                                         or "updated", or "deleted"
          {"status":"in-sync"}           the reader has everything
          {"status":"wait-for-ready"}    no member works any more

        The restart comes once, in front of everything. A dedupe that reads several runs one after the other thereby \
        deletes the keys that the last run lacks. Nothing is written before a member answers for the first time.

        A member that is silent is noticed within 30 seconds. If no other one works, "wait-for-ready" follows 10 \
        seconds after that. Until then the reader has "in-sync".

        The revision is etcd's mod_revision. If the history of the cluster breaks, for example because it was restored \
        from a backup, 2^48 is added from then on, so that revisions of one run never go back. Deletions that follow \
        from reading everything again have no revision.

        A key or a value that is not what --keys or --values says is reported and left out. The reader keeps the \
        key's earlier value, until everything is read again: then the key is deleted. Everything is read again when \
        etcd no longer has what was missed, and every 30 minutes, to find changes that etcd has lost.

        A key is reported once until it can be written again, and at most 20 are in a minute. The JSON value null \
        counts as a value that cannot be written, because in the output it would be a deletion; --values string and \
        base64 take it.

        The keys of one transaction may be written apart, with others between them. Intermediate values may be \
        missing. The user needs the permission to read the prefixes. etcd's grpc-proxy is not supported.

        EXIT STATUS
          0    with --once: everything was written
          1    with --once: keys or values were left out, the rest was written
          2    a file could not be used, the output could not be written, or,
               with --once, the cluster refuses the user
          64   the command line is wrong, or the program was built without
               etcd
          70, 129, 130, 131, 141, 143
               as for dedupe; signals are the same, too

        Without --once, only a signal, or a reader that goes away, ends the program. A cluster that cannot be reached, \
        or that refuses the user, is reported and tried again. A cause is reported once until the cluster is reached.
        """
}

#endif
