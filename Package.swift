// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let package = Package(
    name: "dedupe-buffer",
    platforms: [.macOS(.v15)],
    products: [
        .library(name: "DedupeBuffer", targets: ["DedupeBuffer"]),
        .library(name: "DedupeBufferService", targets: ["DedupeBufferService"]),
        .library(name: "DedupeBufferEtcd", targets: ["DedupeBufferEtcd"]),
        .library(name: "DedupeBufferHub", targets: ["DedupeBufferHub"]),
        .executable(name: "dedupe", targets: ["dedupe"]),
    ],
    // A package that uses DedupeBuffer alone names no trait, `traits: []`, and then fetches
    // swift-log and swift-metrics, and nothing else. With the trait Etcd it fetches the gRPC stack,
    // too.
    traits: [
        .default(enabledTraits: ["Service", "Filter"]),
        .trait(name: "Service", description: "The product DedupeBufferService."),
        .trait(name: "Filter", description: "The program dedupe."),
        .trait(
            name: "Etcd", description: "The product DedupeBufferEtcd, which follows a cluster, and `dedupe etcd`.",
            enabledTraits: ["Service", "Filter"]),
        .trait(name: "Server", description: "`dedupe serve`: many clients over HTTP.", enabledTraits: ["Filter"]),
    ],
    dependencies: [
        // What an application's logs and metrics go to, wherever that is.
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        // The command-line conventions that Swift users expect: help, completion, validation. Only
        // for the program.
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        // Only for DedupeBufferService and DedupeBufferEtcd.
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        // Only for DedupeBufferEtcd.
        .package(url: "https://github.com/grpc/grpc-swift-2", from: "2.4.3"),
        .package(url: "https://github.com/grpc/grpc-swift-nio-transport", from: "2.9.2"),
        // Only for DedupeServer.
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1", traits: []),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-nio-extras", from: "1.35.2"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6"),
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
            dependencies: [
                "DedupeBuffer",
                .product(
                    name: "ServiceLifecycle", package: "swift-service-lifecycle",
                    condition: .when(traits: ["Service"])),
            ]),

        // How to follow a datastore that keeps a history: decisions only, no network.
        .target(
            name: "SyncerEngine",
            dependencies: [
                "DedupeBuffer",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
            ], exclude: ["STATES.md"]),

        // The engine on etcd, by gRPC. Empty without the trait Etcd.
        .target(
            name: "DedupeBufferEtcd",
            dependencies: [
                "DedupeBuffer", "SyncerEngine",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
                .product(
                    name: "ServiceLifecycle", package: "swift-service-lifecycle", condition: .when(traits: ["Etcd"])),
                .product(name: "GRPCCore", package: "grpc-swift-2", condition: .when(traits: ["Etcd"])),
                .product(
                    name: "GRPCNIOTransportHTTP2Posix", package: "grpc-swift-nio-transport",
                    condition: .when(traits: ["Etcd"])),
            ], exclude: ["DESIGN.md", "etcd.proto"]),

        // One source, many clients.
        .target(
            name: "DedupeBufferHub",
            dependencies: [
                "DedupeBuffer",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
            ], exclude: ["DESIGN.md"]),

        // A hub's clients over HTTP. Empty without the trait Server.
        .target(
            name: "DedupeServer",
            dependencies: [
                "DedupeBuffer", "DedupeBufferHub",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "HummingbirdCore", package: "hummingbird", condition: .when(traits: ["Server"])),
                .product(name: "HummingbirdHTTP2", package: "hummingbird", condition: .when(traits: ["Server"])),
                .product(name: "NIOCore", package: "swift-nio", condition: .when(traits: ["Server"])),
                .product(name: "NIOPosix", package: "swift-nio", condition: .when(traits: ["Server"])),
                .product(name: "NIOTLS", package: "swift-nio", condition: .when(traits: ["Server"])),
                .product(name: "NIOHTTP1", package: "swift-nio", condition: .when(traits: ["Server"])),
                .product(name: "NIOHTTPTypes", package: "swift-nio-extras", condition: .when(traits: ["Server"])),
                .product(name: "HTTPTypes", package: "swift-http-types", condition: .when(traits: ["Server"])),
                .product(name: "NIOSSL", package: "swift-nio-ssl", condition: .when(traits: ["Server"])),
                .product(
                    name: "ServiceLifecycle", package: "swift-service-lifecycle",
                    condition: .when(traits: ["Server"])),
            ], exclude: ["Page"]),

        // JSON and text to events, on simdjson's first stage (libsimdjson-dev).
        .target(name: "CEventParser", linkerSettings: [.linkedLibrary("simdjson")]),

        // The program: the filter; `dedupe etcd` with the trait Etcd; `dedupe serve` with the trait
        // Server.
        .executableTarget(
            name: "dedupe",
            dependencies: [
                "CDedupe", "DedupeBuffer", "CEventParser",
                .product(
                    name: "ArgumentParser", package: "swift-argument-parser", condition: .when(traits: ["Filter"])),
                .target(name: "DedupeBufferEtcd", condition: .when(traits: ["Etcd"])),
                .target(name: "DedupeBufferHub", condition: .when(traits: ["Server"])),
                .target(name: "DedupeServer", condition: .when(traits: ["Server"])),
                .product(name: "Logging", package: "swift-log", condition: .when(traits: ["Etcd"])),
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
                .product(
                    name: "ServiceLifecycle", package: "swift-service-lifecycle",
                    condition: .when(traits: ["Service"])),
                .product(
                    name: "ServiceLifecycleTestKit", package: "swift-service-lifecycle",
                    condition: .when(traits: ["Service"])),
            ]),
        .testTarget(
            name: "SyncerEngineTests",
            dependencies: [
                "SyncerEngine", "DedupeBuffer",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "InMemoryLogging", package: "swift-log"),
                .product(name: "MetricsTestKit", package: "swift-metrics"),
            ]),
        .testTarget(
            name: "DedupeBufferEtcdTests",
            dependencies: [
                "DedupeBufferEtcd", "SyncerEngine", "DedupeBuffer",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "InMemoryLogging", package: "swift-log"),
                .product(
                    name: "ServiceLifecycle", package: "swift-service-lifecycle", condition: .when(traits: ["Etcd"])),
                .product(name: "GRPCCore", package: "grpc-swift-2", condition: .when(traits: ["Etcd"])),
                .product(
                    name: "GRPCNIOTransportHTTP2Posix", package: "grpc-swift-nio-transport",
                    condition: .when(traits: ["Etcd"])),
            ]),
        .testTarget(
            name: "DedupeBufferHubTests",
            dependencies: [
                "DedupeBuffer", "DedupeBufferHub",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "InMemoryLogging", package: "swift-log"),
                .product(name: "MetricsTestKit", package: "swift-metrics"),
            ]),
        .testTarget(
            name: "DedupeServerTests",
            dependencies: [
                "DedupeServer", "DedupeBuffer", "DedupeBufferHub", "dedupe",
                .product(name: "NIOEmbedded", package: "swift-nio", condition: .when(traits: ["Server"])),
                .product(name: "NIOHTTP1", package: "swift-nio", condition: .when(traits: ["Server"])),
                .product(name: "NIOHTTPTypes", package: "swift-nio-extras", condition: .when(traits: ["Server"])),
            ]),
        .testTarget(
            name: "DedupeFilterTests",
            dependencies: [
                "dedupe", "DedupeBuffer",
                .target(name: "DedupeBufferEtcd", condition: .when(traits: ["Etcd"])),
                .product(name: "Logging", package: "swift-log", condition: .when(traits: ["Etcd"])),
            ], exclude: ["Cases"]),
    ],
    swiftLanguageModes: [.v6],
    cxxLanguageStandard: .cxx17
)
