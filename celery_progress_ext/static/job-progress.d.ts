import type { AnswerError, Snapshot } from "./progress.js";

export type JobState =
  | "connecting"
  | "waiting"
  | "running"
  | "stalled"
  | "reconnecting"
  | "offline"
  | "completed"
  | "partial"
  | "failed"
  | "cancelled"
  | "error";

/** `<job-progress job src token token-url matter label>`: a job's progress, live. */
export declare class JobProgressElement extends HTMLElement {
  /** Gives a new token, in place of `token-url`. */
  refresh: (() => Promise<string> | string) | null;
  /** The newest; null before the first. */
  readonly snapshot: Snapshot | null;
  readonly state: JobState;
  /** Follow the job again, such as after a retry: at its end it is left. */
  follow(): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "job-progress": JobProgressElement;
  }
  interface HTMLElementEventMap {
    "job-snapshot": CustomEvent<Snapshot>;
    "job-end": CustomEvent<Snapshot>;
    "job-state": CustomEvent<JobState>;
    "job-error": CustomEvent<AnswerError>;
  }
}
