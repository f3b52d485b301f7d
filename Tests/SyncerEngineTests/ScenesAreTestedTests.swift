// SPDX-License-Identifier: Apache-2.0

import Foundation
import Testing

/// STATES.md lists the scenes in which other syncers failed.
@Suite("Scenes are tested")
struct ScenesAreTestedTests {
    @Test func everyScene_hasATestThatIsNamedAfterIt() throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent()
        let folders = [folder, folder.deletingLastPathComponent().appending(path: "DedupeBufferEtcdTests")]
        let files = try folders.flatMap {
            try FileManager.default.contentsOfDirectory(at: $0, includingPropertiesForKeys: nil)
        }.filter { $0.pathExtension == "swift" }
        let text = try files.map { try String(contentsOf: $0, encoding: .utf8) }.joined()
        let names = text.matches(of: /func ((?:scene\d\d_)+)/).map { String($0.output.1) }.joined()
        for scene in 1...29 {
            let name = "scene\(scene < 10 ? "0" : "")\(scene)_"
            #expect(names.contains(name), "\(name)")
        }
    }
}
