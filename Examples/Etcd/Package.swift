// swift-tools-version: 6.3
// SPDX-License-Identifier: Apache-2.0

import PackageDescription

let package = Package(
    name: "dedupe-buffer-etcd-example",
    platforms: [.macOS(.v15)],
    dependencies: [
        .package(name: "dedupe-buffer", path: "../..", traits: ["Etcd"]),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        .executableTarget(
            name: "Configured",
            dependencies: [
                .product(name: "DedupeBuffer", package: "dedupe-buffer"),
                .product(name: "DedupeBufferEtcd", package: "dedupe-buffer"),
                .product(name: "DedupeBufferService", package: "dedupe-buffer"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
            ])
    ],
    swiftLanguageModes: [.v6]
)
