// How the tests talk to a program of theirs: one JSON object a line on standard input, one line back on
// standard output for each. The end of standard input ends the program, so that none outlives its test.

import readline from 'node:readline';

/** Prints one answer. Nothing else may write to standard output. */
export function tell(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

/** Carries out orders, one after the other, until standard input ends. */
export async function obey(carryOut) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    try {
      tell((await carryOut(JSON.parse(line))) ?? { done: true });
    } catch (error) {
      tell({ error: String(error) });
    }
  }
  process.exit(0);
}
