// SPDX-License-Identifier: Apache-2.0

#if Server

/// How many descriptors the process may have.
enum Descriptors {
    /// Raises the limit as far as the system allows.
    ///
    /// - Returns: The limit.
    static func raiseLimit() -> Int {
        var limit = rlimit()
        #if canImport(Glibc)
        let resource = __rlimit_resource_t(UInt32(RLIMIT_NOFILE.rawValue))
        #else
        let resource = RLIMIT_NOFILE
        #endif
        guard getrlimit(resource, &limit) == 0 else { return 1024 }
        // More than this many is never needed, and some systems refuse "unlimited".
        let most = rlim_t(1_100_000)
        let wanted = min(limit.rlim_max, most)
        if limit.rlim_cur < wanted {
            limit.rlim_cur = wanted
            _ = setrlimit(resource, &limit)
            _ = getrlimit(resource, &limit)
        }
        return Int(min(limit.rlim_cur, most))
    }

    /// How many are open, among the first ones. A process inherits some.
    static func countOpen(below limit: Int) -> Int {
        (0..<min(limit, 4096)).count { fcntl(CInt($0), F_GETFD) != -1 }
    }
}

#endif
