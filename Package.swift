// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let package = Package(
    name: "dedupe-buffer",
    platforms: [.macOS(.v15)],
    products: [
        .library(name: "DedupeBuffer", targets: ["DedupeBuffer"]),
        .library(name: "DedupeBufferService", targets: ["DedupeBufferService"]),
        .executable(name: "dedupe", targets: ["dedupe"]),
    ],
    dependencies: [
        // What an application's logs and metrics go to, wherever that is.
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        // The command-line conventions that Swift users expect: help, completion, validation.
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        // Only for DedupeBufferService: who does not use that product builds nothing of it.
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        // The concurrent core. Needs Concurrency Kit and xxHash's header (libck-dev,
        // libxxhash-dev).
        .target(
            name: "CDedupe", exclude: ["exports.map", "packaging"], cSettings: [.headerSearchPath(".")],
            linkerSettings: [.linkedLibrary("ck")]),

        // Typed keys and values; delivery on a Dispatch queue or to a task.
        .target(
            name: "DedupeBuffer",
            dependencies: [
                "CDedupe",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
            ]),

        // Delivery as a service of an application.
        .target(
            name: "DedupeBufferService",
            dependencies: ["DedupeBuffer", .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")]),

        // JSON and text to events, on simdjson's first stage (libsimdjson-dev).
        .target(name: "CEventParser", linkerSettings: [.linkedLibrary("simdjson")]),

        // The command-line filter.
        .executableTarget(
            name: "dedupe",
            dependencies: [
                "DedupeBuffer", "CEventParser",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ], exclude: ["Manual"]),

        // The contract as a model in C, and the scenarios' language; only for tests.
        .target(name: "CModel", dependencies: ["CDedupe"], path: "Tests/CModel"),

        .testTarget(
            name: "DedupeBufferTests",
            dependencies: [
                "CDedupe", "CModel", "DedupeBuffer",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "InMemoryLogging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(name: "MetricsTestKit", package: "swift-metrics"),
            ]),
        .testTarget(
            name: "DedupeBufferServiceTests",
            dependencies: [
                "DedupeBuffer", "DedupeBufferService",
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "ServiceLifecycleTestKit", package: "swift-service-lifecycle"),
            ]),
        .testTarget(name: "DedupeFilterTests", dependencies: ["dedupe", "DedupeBuffer"], exclude: ["Cases"]),
    ],
    swiftLanguageModes: [.v6],
    cxxLanguageStandard: .cxx17
)
