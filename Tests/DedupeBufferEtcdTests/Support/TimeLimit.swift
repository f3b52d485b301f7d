// SPDX-License-Identifier: Apache-2.0

#if Etcd

/// Something that a test waited for did not come.
struct TimeLimitExceeded: Error, CustomStringConvertible {
    let description: String
}

/// Runs the body, or fails with the name of what was waited for.
func within<Result: Sendable>(
    _ what: String, limit: Duration = .seconds(300), isolation: isolated (any Actor)? = #isolation,
    _ body: @escaping @Sendable () async throws -> Result
) async throws -> Result {
    try await withThrowingTaskGroup(of: Result?.self) { group in
        group.addTask { try await body() }
        group.addTask {
            try await Task.sleep(for: limit)
            return nil
        }
        defer { group.cancelAll() }
        guard let result = try await group.next()! else {
            throw TimeLimitExceeded(description: "\(what): not within \(limit)")
        }
        return result
    }
}

#endif
