// swift-tools-version: 6.1
import PackageDescription

let strict: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
    .unsafeFlags(["-warnings-as-errors"]),
]

/// A Swift target of this package with the settings that all of them share.
func module(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, swiftSettings: strict)
}

/// A C library of the system. Debian's package is named so that SwiftPM can tell who lacks it.
func library(_ name: String, apt: String) -> Target {
    .systemLibrary(name: name, providers: [.apt([apt])])
}

/// A test target. Tests may use full Foundation: only `Sources` must stay small.
func tests(
    _ name: String, _ dependencies: [Target.Dependency], path: String? = nil, resources: [Resource] = []
) -> Target {
    .testTarget(name: name, dependencies: dependencies, path: path, resources: resources)
}

let system = Target.Dependency.product(name: "SystemPackage", package: "swift-system")
let arguments = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")

let package = Package(
    name: "imgbox",
    products: [.executable(name: "imgbox", targets: ["imgbox"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-system", from: "1.8.0"),
    ],
    targets: [
        .executableTarget(
            name: "imgbox",
            dependencies: [
                "Runtime", "Launch", "Cgroups", "DBus", "Seccomp", "Store", "Layers", "OCI", "Kernel",
                "Files",
                arguments, system,
            ],
            swiftSettings: strict),
        module(
            "Runtime",
            [
                "Launch", "Cgroups", "DBus", "Seccomp", "Store", "Layers", "OCI", "Kernel", "Files",
                "CKernel", system,
            ]),
        module("Launch", ["Cgroups", "Kernel", "OCI", "Files", "CLaunch", "CKernel", system]),
        module("Cgroups", ["OCI", "Files", "CKernel", system]),
        module("DBus", ["Files", "CKernel", system]),
        module("Seccomp", ["Kernel", "OCI", "Files", "CSeccomp", "CKernel"]),
        module("Store", ["Layers", "OCI", "Kernel", "Files", system]),
        module(
            "Layers",
            ["OCI", "Kernel", "Files", "CArchive", "CZstd", "CZlib", "CLzma", "CBzip2", "CKernel", system]),
        module("OCI", ["Files", "CNettle", system]),
        module("Kernel", ["Files", "CKernel", system]),
        module("Files", ["CKernel", system]),
        .target(name: "CLaunch", cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror"])]),
        .target(name: "CKernel", cSettings: [.unsafeFlags(["-Wall", "-Wextra", "-Werror"])]),
        library("CArchive", apt: "libarchive-dev"),
        library("CZstd", apt: "libzstd-dev"),
        library("CZlib", apt: "zlib1g-dev"),
        library("CLzma", apt: "liblzma-dev"),
        library("CBzip2", apt: "libbz2-dev"),
        library("CNettle", apt: "nettle-dev"),
        library("CSeccomp", apt: "libseccomp-dev"),
        tests("OCITests", ["OCI", "Files"]),
        tests("LayersTests", ["Layers", "OCI", "Files", system]),
        tests(
            "RuntimeTests", ["Runtime", "Launch", "Cgroups", "Kernel", "Layers", "OCI", "Files"],
            resources: [.copy("Golden")]),
        tests("CgroupsTests", ["Cgroups", "OCI", "Files"]),
        tests("DBusTests", ["DBus", "Files", system]),
        tests("SeccompTests", ["Seccomp", "Kernel", "OCI", "Files"]),
        tests("CommandTests", ["imgbox", "Runtime", "Store", "OCI", arguments]),
        tests("EndToEnd", ["Layers", "OCI", "Files", system], path: "Tests/EndToEnd"),
    ]
)

// Fuzzers are built by `make fuzz` only: libFuzzer brings its own main and wants every module instrumented.
if Context.environment["IMGBOX_FUZZ"] != nil {
    let fuzzing: [SwiftSetting] = [.unsafeFlags(["-sanitize=fuzzer", "-parse-as-library"])]
    let linking: [LinkerSetting] = [.unsafeFlags(["-sanitize=fuzzer"])]
    package.targets += [
        .executableTarget(
            name: "fuzz-documents", dependencies: ["OCI", "Files"], path: "Tests/Fuzz/Documents",
            swiftSettings: fuzzing, linkerSettings: linking),
        .executableTarget(
            name: "fuzz-tar", dependencies: ["Layers", "Files", "CKernel"], path: "Tests/Fuzz/Tar",
            swiftSettings: fuzzing, linkerSettings: linking),
    ]
}
