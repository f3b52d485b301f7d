// swift-tools-version: 6.1
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let package = Package(
    name: "dedupe-buffer",
    platforms: [.macOS(.v15)],
    products: [
        .library(name: "DedupeBuffer", targets: ["DedupeBuffer"]),
        .executable(name: "dedupe", targets: ["dedupe"]),
    ],
    dependencies: [
        // The command-line conventions that Swift users expect: help, completion, validation.
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2")
    ],
    targets: [
        // The concurrent core. Needs Concurrency Kit and xxHash's header (libck-dev, libxxhash-dev).
        .target(name: "CDedupe", exclude: ["exports.map"], linkerSettings: [.linkedLibrary("ck")]),

        // Typed keys and values, delivery on a Dispatch queue.
        .target(name: "DedupeBuffer", dependencies: ["CDedupe"]),

        // One line of JSON to an event, by simdjson (libsimdjson-dev).
        .target(name: "CEventParser", linkerSettings: [.linkedLibrary("simdjson")]),

        // The command-line filter.
        .executableTarget(
            name: "dedupe",
            dependencies: [
                "DedupeBuffer", "CEventParser",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),

        .testTarget(name: "DedupeBufferTests", dependencies: ["DedupeBuffer"]),
        .testTarget(name: "DedupeFilterTests", dependencies: ["dedupe", "DedupeBuffer"]),
    ],
    swiftLanguageModes: [.v6],
    cxxLanguageStandard: .cxx17
)
