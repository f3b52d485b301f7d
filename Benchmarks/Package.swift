// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

// A package of its own, so that users of the library do not get what only benchmarks need.
let package = Package(
    name: "dedupe-buffer-benchmarks",
    platforms: [.macOS(.v15)],
    dependencies: [
        .package(name: "dedupe-buffer", path: ".."),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        // The persistent map of the hub's yardstick.
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
    ],
    targets: [
        // What Swift cannot say itself: a count of allocations, requests to callgrind.
        .target(name: "CMeasure"),
        .executableTarget(
            name: "DedupeBenchmarks",
            dependencies: [
                "CMeasure",
                .product(name: "DedupeBuffer", package: "dedupe-buffer"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "CoreMetrics", package: "swift-metrics"),
            ]),
        // One source, many clients; beside a buffer for each, and beside chains of snapshots.
        .executableTarget(
            name: "HubBenchmarks",
            dependencies: [
                "CMeasure",
                .product(name: "DedupeBuffer", package: "dedupe-buffer"),
                .product(name: "DedupeBufferHub", package: "dedupe-buffer"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "HashTreeCollections", package: "swift-collections"),
            ]),
    ],
    swiftLanguageModes: [.v6]
)
