// Before the tests: the UI, built once.
import type { TestProject } from "vitest/node";
import { built } from "./build";

declare module "vitest" {
  export interface ProvidedContext {
    dist: string;
  }
}

export default async function setup(project: TestProject): Promise<void> {
  project.provide("dist", await built("mock"));
}
