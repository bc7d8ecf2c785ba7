// Asking the agent: one question at a time, none while nobody looks, ever more rarely while it does not answer.

const PATIENCE = 15_000;
const FIRST_WAIT = 1_000;
const LONGEST_WAIT = 30_000;

/**
 * What is asked again and again. A question has a `name`, a `path`, which returns null while it is of no use, and
 * `every`, which returns milliseconds.
 */
export class Feed {
  /** By name: `path`, `value`, `error` and the time `at` of the last answer. */
  answers = new Map();
  /** When an answer last came, by `performance.now()`. */
  heard = null;
  /** Why the agent cannot be heard, or null. */
  trouble = null;
  /** When it is asked again after trouble. */
  next = 0;
  paused = false;

  #questions;
  #changed;
  #wait = FIRST_WAIT;
  #wake = null;

  /** `changed` is called after each answer, and after each that did not come. */
  constructor(questions, changed) {
    this.#questions = questions;
    this.#changed = changed;
    document.addEventListener("visibilitychange", () => this.nudge());
    window.addEventListener("online", () => this.retry());
  }

  /** The answer to a question as it is asked now, if it has come. */
  get(name) {
    const answer = this.answers.get(name);
    return answer && answer.path === this.#question(name).path() ? answer : null;
  }

  /** Asks, for ever. */
  async run() {
    for (;;) {
      await this.#sleep(this.#pause());
      if (this.#resting()) continue;
      const due = this.#questions.find((question) => this.#dueIn(question) <= 0);
      if (due) await this.#ask(due);
    }
  }

  /** Looks again at what is due: something was chosen. */
  nudge() {
    this.#wake?.();
  }

  /** Asks without waiting any longer. */
  retry() {
    this.next = 0;
    this.nudge();
  }

  #question(name) {
    return this.#questions.find((question) => question.name === name);
  }

  #resting() {
    return document.hidden || (this.paused && this.heard !== null && !this.#unanswered());
  }

  /** Whether something was chosen that was never asked for: that is answered even while paused. */
  #unanswered() {
    return this.#questions.some((question) => question.path() !== null && !this.get(question.name));
  }

  #pause() {
    if (this.#resting()) return Infinity;
    const due = Math.min(...this.#questions.map((question) => this.#dueIn(question)));
    return Math.max(due, this.next - performance.now(), 0);
  }

  #dueIn(question) {
    const path = question.path();
    if (path === null) return Infinity;
    const answer = this.answers.get(question.name);
    if (!answer || answer.path !== path) return 0;
    return this.paused ? Infinity : answer.at + question.every() - performance.now();
  }

  #sleep(time) {
    return new Promise((resolve) => {
      this.#wake = resolve;
      if (time !== Infinity) setTimeout(resolve, time);
    });
  }

  async #ask(question) {
    const path = question.path();
    try {
      const answer = await request(path);
      this.answers.set(question.name, { path, at: performance.now(), ...answer });
      this.heard = performance.now();
      this.trouble = null;
      this.#wait = FIRST_WAIT;
    } catch (error) {
      this.trouble = error.message;
      this.next = performance.now() + this.#wait;
      this.#wait = Math.min(this.#wait * 2, LONGEST_WAIT);
    }
    this.#changed(question.name);
  }
}

/** The value that the agent answers with, or its error; throws where it is not the agent that answers. */
async function request(path) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  } catch (error) {
    throw new Error(error.name === "TimeoutError" ? "it does not answer" : "nothing answers there", { cause: error });
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return { value: body, error: null };
  if (typeof body?.error === "string" && response.status < 500) return { value: null, error: body.error };
  throw new Error(body?.error ?? `it answers with ${response.status}`);
}
