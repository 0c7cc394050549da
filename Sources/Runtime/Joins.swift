import Files
import Glibc
import Kernel
import OCI
import Store

/// Finds the namespaces of the containers that are to be joined.
enum Joins {
    static func resolve(
        _ options: inout RunOptions, _ surroundings: inout Surroundings, in store: Store
    ) throws(RuntimeError) {
        let choices = [
            ("network", "net", options.network), ("pid", "pid", options.pid), ("ipc", "ipc", options.ipc),
        ]
        var owners: [String: ContainerRecord] = [:]
        for (type, file, choice) in choices {
            guard case .container(let word) = choice else { continue }
            let record = try running(word, "--\(type)", store)
            surroundings.joined[type] = "/proc/\(record.pid)/ns/\(file)"
            owners[type] = record
        }
        if case .container(let word) = options.userNamespace {
            let record = try running(word, "--userns", store)
            try joinUser(record, "--userns container:\(word)", &surroundings)
        }
        // Whoever joins must have rights there: the rights come with the user namespace that owns what is joined.
        for (type, record) in owners.sorted(by: { $0.key < $1.key }) {
            if options.userNamespace == .standard { try joinUser(record, "--\(type)", &surroundings) }
            let same = record.uidMap.isEmpty ? nil : record.uidMap
            guard same == surroundings.maps?.uid, same == nil || surroundings.joined["user"] != nil else {
                throw RuntimeError(
                    "--\(type) container:\(record.name) cannot be combined with "
                        + "\(options.userNamespace == .standard ? "the other joins" : "this --userns"): the namespaces have different owners",
                    hint: "leave out --userns: a container that joins another shares its ids")
            }
        }
        // Without ids of its own, the container that is joined has none to share.
        if !owners.isEmpty, surroundings.maps == nil { options.userNamespace = .host }
    }

    private static func joinUser(
        _ record: ContainerRecord, _ flag: String, _ surroundings: inout Surroundings
    ) throws(RuntimeError) {
        guard !record.uidMap.isEmpty else { return }
        let path = "/proc/\(record.pid)/ns/user"
        if let before = surroundings.joined["user"], before != path, surroundings.maps?.uid != record.uidMap {
            throw RuntimeError(
                "\(flag): the containers to join have different ids, and one can only have those of one")
        }
        surroundings.joined["user"] = path
        surroundings.maps = (record.uidMap, record.gidMap)
    }

    private static func running(_ word: String, _ flag: String, _ store: Store) throws(RuntimeError)
        -> ContainerRecord
    {
        let record = try ContainerDirectory.find(word, in: store)
        guard record.status == .running, record.pid > 0,
            ContainerDirectory.startTime(of: record.pid) == record.startTime
        else {
            throw RuntimeError(
                "\(flag) container:\(printable(word)): that container is not running",
                hint: "imgbox ps shows those that are")
        }
        return record
    }
}
