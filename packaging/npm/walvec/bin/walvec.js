#!/usr/bin/env node
// Runs the program, which is in the npm package for this platform.
"use strict";

const { spawn } = require("node:child_process");

const name = `@walvec/${process.platform}-${process.arch}`;

function fail(what, remedy) {
  console.error(`walvec: ${what}\n  remedy: ${remedy}`);
  process.exit(1);
}

let program;
try {
  program = require.resolve(`${name}/bin/walvec`);
} catch {
  fail(
    `the package ${name} is not installed`,
    "npm leaves it out with --omit=optional, and where there is none for the system; " +
      "there are packages for Linux with glibc and for macOS, on x64 and arm64",
  );
}

const child = spawn(program, process.argv.slice(2), { stdio: "inherit" });
child.on("error", (error) => fail(`${program} does not start: ${error.message}`, `npm install --force ${name}`));

// Ctrl-C reaches the program directly. If it were passed on too, the program would get a second signal, which ends it
// at once.
process.on("SIGINT", () => {});
// These signals may have reached the program directly too, but walvec treats signals within a second as one.
for (const signal of ["SIGTERM", "SIGHUP"]) {
  process.on(signal, () => child.kill(signal));
}

child.on("exit", (code, signal) => {
  if (signal === null) process.exit(code);
  // Ends with the program's exit code or signal, so that a shell sees it.
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});
