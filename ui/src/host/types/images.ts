// Images, and their ways from and to registries.

export interface Image {
  digest: string;
  id: string;
  names: string[];
  platforms: string[];
  created: number | null;
  bytes: number;
  sharedBytes: number;
  /** The build that made it, while history has it. */
  buildRef: string;
}

export interface ImageDetail {
  image: Image;
  layers: { digest: string; mediaType: string; bytes: number; command: string }[];
  history: { command: string; created: number | null; bytes: number; empty: boolean }[];
  attestations: { type: string; digest: string; platform: string }[];
  config: string;
  /** Builds that had it among their sources, the newest of `usedByTotal`. */
  usedBy: { buildRef: string; created: number | null }[];
  usedByTotal: number;
  /** Images with the same first layers. */
  related: RelatedImage[];
}

export interface RelatedImage {
  digest: string;
  names: string[];
  layers: number;
  /** Of the first layers, so many are the same. */
  sharedLayers: number;
}

/** A pull or push: under way, or at its end with a digest or an error. */
export interface Transfer {
  blobs: TransferBlob[];
  finished: string;
  error: string;
  hint: string;
}

export interface TransferBlob {
  digest: string;
  /** waiting, transferring, exists or done. */
  status: string;
  current: number;
  total: number;
  /** layer, config or manifest. */
  description: string;
}
