// Who is spoken to: builders and registries, and a test of the way there.

export interface Builder {
  name: string;
  kind: "machine" | "unix" | "tcp" | "docker";
  address: string;
  current: boolean;
  caFile: string;
  certFile: string;
  keyFile: string;
  serverName: string;
}

export interface BuilderAddress {
  name: string;
  address: string;
  /** PEM files; without a CA the connection is without TLS. */
  caFile: string;
  certFile: string;
  keyFile: string;
  serverName: string;
}

export interface TestStep {
  title: string;
  ok: boolean;
  detail: string;
  milliseconds: number;
}

export interface Registry {
  host: string;
  /** Where its login is kept: a file or a helper's name. Empty: no login. */
  login: string;
  mirrors: string[];
  /** Spoken to without TLS. */
  http: boolean;
  /** Its certificate isn't checked. */
  insecure: boolean;
  caFiles: string[];
  /** Whether the machine is told anything of it. */
  configured: boolean;
}
