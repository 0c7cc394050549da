import ArgumentParser
struct R: ParsableCommand {}
R.main()
