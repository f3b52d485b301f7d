// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

// A package of its own, so that users of the library do not get what only the examples need.
let package = Package(
    name: "dedupe-buffer-server-example",
    platforms: [.macOS(.v15)],
    dependencies: [
        .package(name: "dedupe-buffer", path: "../.."),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        .executableTarget(
            name: "RouteServer",
            dependencies: [
                .product(name: "DedupeBuffer", package: "dedupe-buffer"),
                .product(name: "DedupeBufferService", package: "dedupe-buffer"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Metrics", package: "swift-metrics"),
                // Stands for a backend, and can be asked.
                .product(name: "MetricsTestKit", package: "swift-metrics"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ]),
        .executableTarget(
            name: "TrafficCounters", dependencies: [.product(name: "DedupeBuffer", package: "dedupe-buffer")]),
    ],
    swiftLanguageModes: [.v6]
)
