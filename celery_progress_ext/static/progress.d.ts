/** A job's whole truth at one version: the data of every event. Times are ISO 8601 with offset. */
export interface Snapshot {
  job_id: string;
  matter_id: string;
  document_id: string;
  title?: string | null;
  version: number;
  status: "PENDING" | "PROCESSING" | "COMPLETED" | "PARTIAL" | "FAILED" | "CANCELLED";
  stage: string;
  stage_name: string;
  /** Of distinct completed chunks; it never goes back. */
  progress_pct: number;
  /** By cost, with chunks at work and the merge; 100 only at the end. */
  work_pct: number;
  error: string | null;
  waiting: { reason: string; since: string | null; jobs_before: number | null; [key: string]: unknown } | null;
  chunks: { total: number; pending: number; processing: number; completed: number; failed: number };
  pages: { total: number; done: number };
  unit: string;
  /** A median and an 80 % interval. */
  eta: { finish_at: string; earliest: string; latest: string } | null;
  metadata: Record<string, any>;
  failures: { chunk_index: number; page_start: number; page_end: number; message: string }[];
  failures_total: number;
  stalled: { chunk_index: number; page_start: number; page_end: number; seconds: number; reason: string }[];
  heartbeat_at: string | null;
  created_at: string;
  finished_at: string | null;
  [key: string]: any;
}

export type State = "connecting" | "live" | "reconnecting" | "offline" | "closed";
export type AnswerError = Error & { status?: number };

export interface Callbacks {
  /** Newest version only, never an older one. */
  onSnapshot?(snapshot: Snapshot, event: string): void;
  /** A job is over. */
  onEnd?(snapshot: Snapshot): void;
  /** Given up: no access, or no such job. */
  onError?(error: AnswerError): void;
  onState?(state: State): void;
  /** Opens the job or the matter where the page has no session. */
  token?: string;
  /** A new token in place of one that has expired. */
  refresh?(): Promise<string> | string;
  /** For so long a job may not be there yet; 60. */
  notFoundSeconds?: number;
}

export interface Follower {
  close(): void;
}

export declare const EVENTS: readonly string[];
export declare const TERMINAL: ReadonlySet<string>;

/** Follow one job to its end. `url` is the events URL; the snapshot's is the same without "/events". */
export declare function followJob(url: string, callbacks?: Callbacks): Follower;

/** Follow all jobs of a matter over one connection. */
export declare function followMatter(
  url: string,
  /** `refetch` reads what is listed, in place of `listUrl`, whenever the stream was opened. */
  callbacks?: Callbacks & { listUrl?: string; refetch?: () => Promise<Snapshot[]> },
): Follower;

/** The JSON at `url`; rejects with the status, and the server's sentence. */
export declare function fetchJson(url: string, options?: RequestInit): Promise<any>;
