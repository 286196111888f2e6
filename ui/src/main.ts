// Picks the host and mounts the app.
import { mount } from "svelte";
import App from "./App.svelte";
import "./app.css";
import { setHost } from "./host/host";

async function start(): Promise<void> {
  if (__MOCK__) {
    const { mockHost } = await import("./host/mock");
    const text = new URLSearchParams(location.search).get("mock");
    setHost(mockHost(text ? JSON.parse(text) : {}));
  } else {
    const { tauriHost } = await import("./host/tauri");
    setHost(tauriHost());
  }
  const target = document.getElementById("app");
  if (target) mount(App, { target });
}

void start();
