package import OCI

/// The groups of one container: a directory in each hierarchy that it uses, all of the same name.
package struct CgroupGroup: Sendable, Equatable {
    package struct Directory: Sendable, Equatable {
        package let version: Int
        package let mountPoint: String
        /// From the mount point; begins with `/`.
        package let path: String
        /// What is limited or counted here.
        package let controllers: [String]

        package var absolute: String { mountPoint + path }
    }

    package var directories: [Directory]

    package init(_ directories: [Directory]) { self.directories = directories }

    /// Controllers that every container has where they are there: for a fair share of the processors, for
    /// out-of-memory reports, against fork bombs and for devices.
    private static let always = ["cpu", "memory", "pids", "devices"]
    /// In a v2 tree the accounting of io costs nothing more.
    private static let alwaysUnified = ["io"]

    /// The groups of a container. `path` goes from each mount point and begins with `/`.
    package init(_ host: CgroupHost, path: String, resources: Resources) {
        var wanted = CgroupGroup.always
        if resources.cpus != nil || resources.memoryNodes != nil { wanted.append("cpuset") }
        if resources.usesBlockDevices { wanted += ["blkio", "io"] }
        if !resources.hugePages.isEmpty { wanted.append("hugetlb") }
        directories = []
        for hierarchy in host.hierarchies {
            let all = hierarchy.version == 2 ? wanted + CgroupGroup.alwaysUnified : wanted
            let used = hierarchy.controllers.filter(all.contains)
            // A v2 directory is made even without controllers: it gives cgroup.kill, freezing and CLONE_INTO_CGROUP.
            if used.isEmpty, hierarchy.version == 1 { continue }
            directories.append(
                Directory(
                    version: hierarchy.version, mountPoint: hierarchy.mountPoint, path: path,
                    controllers: used))
        }
    }

    package func directory(of controller: String) -> Directory? {
        directories.first { $0.controllers.contains(controller) }
    }

    package var unified: Directory? { directories.first { $0.version == 2 } }
}

extension Resources {
    package var usesBlockDevices: Bool {
        blockWeight != nil || !readBytes.isEmpty || !writeBytes.isEmpty || !readOperations.isEmpty
            || !writeOperations.isEmpty
    }
}
