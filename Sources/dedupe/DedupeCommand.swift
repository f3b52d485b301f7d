// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CDedupe

/// The program: its first word names a subcommand, and without one the filter runs.
///
/// The parser's own default subcommand would take the filter's options out of `dedupe --help` and
/// out of the completions, and would make a file named `help` a subcommand. So this type, which has
/// the filter's options and the subcommands, is only for the completions and for the manual's list
/// of options. The command line is parsed as the filter's, or as the subcommand's.
@main
struct DedupeCommand: ParsableCommand {
    static let name = "dedupe"
    static let abstract = "Conflate a fast stream of keyed updates for a slow reader."
    /// The version of the whole project, which the C header defines.
    static let version = CDEDUPE_VERSION

    static let configuration = CommandConfiguration(
        commandName: name, abstract: abstract, version: version, subcommands: Subcommand.allCases.compactMap(\.type))

    @OptionGroup var filter: FilterCommand

    /// The options that the parser answers for the program as a whole.
    private static let optionsAboutAll = ["--generate-completion-script", "--experimental-dump-help"]

    static func main() {
        let arguments = Array(CommandLine.arguments.dropFirst())
        let first = arguments.first ?? ""
        if optionsAboutAll.contains(where: { first == $0 || first.hasPrefix($0 + "=") }) {
            main(arguments)
        } else if let subcommand = Subcommand(rawValue: first) {
            subcommand.run(arguments)
        } else {
            FilterCommand.main(arguments)
        }
    }
}

/// What the first word of the command line can choose besides the filter.
enum Subcommand: String, CaseIterable {
    case etcd
    case serve

    /// The trait of the package that the subcommand needs.
    private var trait: String {
        switch self {
        case .etcd: "Etcd"
        case .serve: "Server"
        }
    }

    /// The subcommand's command line; nil if the program was built without it.
    var type: ParsableCommand.Type? {
        switch self {
        case .etcd:
            #if Etcd
            EtcdCommand.self
            #else
            nil
            #endif
        case .serve:
            #if Server
            ServeCommand.self
            #else
            nil
            #endif
        }
    }

    /// Runs the subcommand, or says how to get a program that has it. Does not return after a
    /// failure.
    ///
    /// - Parameter arguments: The whole command line. The subcommand's name comes first.
    func run(_ arguments: [String]) {
        if type == nil {
            Diagnostics.ofProcess.report(
                "this program was built without \(rawValue); make install-filter TRAITS=\"--traits \(trait)\" "
                    + "builds one with it; to read a file of that name: dedupe ./\(rawValue)",
                patience: Diagnostics.lastPatience)
            exit(ExitStatus.usage)
        }
        Subcommands.main(arguments)
    }
}

/// The command line of the subcommands: with it as their root, messages have the whole name.
private struct Subcommands: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: DedupeCommand.name, version: DedupeCommand.version,
        subcommands: Subcommand.allCases.compactMap(\.type))
}
