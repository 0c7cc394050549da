import Glibc

/// A POSIX thread that runs one closure. Swift's own tasks are not used for unpacking: the stages block in system calls,
/// and their pool must never be woken before a namespace is entered.
final class Thread: Sendable {
    private let handle: pthread_t

    private final class Body {
        let run: @Sendable () -> Void
        init(_ run: @escaping @Sendable () -> Void) { self.run = run }
    }

    /// Starts at once.
    init(_ run: @escaping @Sendable () -> Void) throws(LayerError) {
        var created = pthread_t()
        let body = Unmanaged.passRetained(Body(run))
        let code = pthread_create(
            &created, nil,
            { argument in
                if let argument { Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().run() }
                return nil
            }, body.toOpaque())
        guard code == 0 else {
            body.release()
            throw LayerError(.system, "cannot start a thread: \(String(cString: strerror(code)))")
        }
        handle = created
    }

    /// Waits for the end. To be called once.
    func join() { pthread_join(handle, nil) }
}

/// Runs a body for each item on up to `width` threads, and returns the results in the order of the items.
package func parallelMap<Item: Sendable, Result: Sendable>(
    _ items: [Item], width: Int, _ body: @escaping @Sendable (Int, Item) -> Result
) throws(LayerError) -> [Result] {
    let state = Monitor((next: 0, results: [Result?](repeating: nil, count: items.count)))
    let work: @Sendable () -> Void = {
        while true {
            let index = state.with { state in
                defer { state.next += 1 }
                return state.next
            }
            guard index < items.count else { return }
            let result = body(index, items[index])
            state.with { $0.results[index] = result }
        }
    }
    var threads: [Thread] = []
    for _ in 1..<max(2, min(width, items.count)) {
        // Fewer threads than wished for only make it slower.
        guard width > 1, items.count > 1, let thread = try? Thread(work) else { break }
        threads.append(thread)
    }
    work()
    for thread in threads { thread.join() }
    return state.with { $0.results.compactMap { $0 } }
}

/// A value behind a lock, with a condition to wait on.
///
/// `@unchecked Sendable`: the value is touched only while the mutex is held.
package final class Monitor<Value>: @unchecked Sendable {
    private var value: Value
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)

    package init(_ value: Value) {
        self.value = value
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    package func with<Result>(_ body: (inout Value) -> Result) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return body(&value)
    }

    /// Waits until the body gives a result, and wakes all others when it has.
    func wait<Result>(_ body: (inout Value) -> Result?) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&value) {
                pthread_cond_broadcast(condition)
                return result
            }
            pthread_cond_wait(condition, mutex)
        }
    }
}

/// A queue of bounded length between two threads.
final class BoundedQueue<Element: Sendable>: Sendable {
    private struct State {
        var items: [Element] = []
        var isClosed = false
    }

    private let state = Monitor(State())
    private let capacity: Int

    init(capacity: Int) { self.capacity = capacity }

    /// Waits for room. False when the queue was closed: the item is not wanted any more.
    func push(_ item: Element) -> Bool {
        state.wait { state in
            if state.isClosed { return false }
            guard state.items.count < capacity else { return nil }
            state.items.append(item)
            return true
        }
    }

    /// Waits for an item; nil when the queue is closed and empty.
    func pop() -> Element? {
        state.wait { state -> Element?? in
            if !state.items.isEmpty { return .some(state.items.removeFirst()) }
            return state.isClosed ? .some(nil) : nil
        }
    }

    /// No more items will come; those that are in stay.
    func close() {
        state.wait { $0.isClosed = true }
    }

    /// Nobody will take the items any more.
    func abandon() {
        state.wait { state in
            state.items = []
            state.isClosed = true
        }
    }
}
