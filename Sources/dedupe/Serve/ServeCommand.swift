// SPDX-License-Identifier: Apache-2.0

#if Server

import ArgumentParser
import DedupeServer

/// `dedupe serve`: one source, many clients, over HTTP.
struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: Subcommand.serve.rawValue,
        abstract: "Serve a stream of keyed updates to many clients over HTTP, each at its own pace.",
        usage: "dedupe serve [<options>] [<file>]",
        discussion: ServeHelp.discussion)

    @OptionGroup(title: "Where clients connect") var listening: ListenOptions
    @OptionGroup(title: "Which clients are served") var access: AccessOptions
    @OptionGroup(title: "Where the key is") var input: InputOptions
    @OptionGroup(title: "What is passed on") var rules: ServeRuleOptions
    @OptionGroup(title: "How it runs") var running: ServeRunOptions

    @Argument(help: "The file to read. Standard input if it is missing or \"-\".", completion: .file())
    var file: String?

    func validate() throws {
        let format = try format()
        if rules.onMissing == .pass {
            throw ValidationError("--on-missing pass is for the filter: a line without a key has no place in a table.")
        }
        if rules.onMissing != .error && format.shape == .events {
            throw ValidationError("--on-missing needs --key, -k or --from.")
        }
    }

    /// The input's format. Clients get objects with key and value in any case.
    private func format() throws -> InputFormat {
        try input.format(hasEnvelope: !input.key.isEmpty || !input.field.isEmpty || input.from != nil)
    }

    func run() throws {
        let serve = Serve(
            format: try format(), rules: rules, running: running, configuration: listening.configuration,
            access: access)
        let status = serve.run(path: file == "-" ? nil : file)
        if status != 0 {
            throw ExitCode(status)
        }
    }
}

#endif
