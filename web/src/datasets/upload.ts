/** An upload with its progress, which fetch does not tell: the one request that XMLHttpRequest sends. */
import type { Schemas } from "../api/client";
import { noteAnswer, noteSilence } from "../api/connection";
import { ConnectionLost, Problem, problemOf } from "../api/problem";
import { refuseKey, session } from "../api/session";

export interface Parts {
  train: File;
  validation: File | null;
  name: string;
  /** How to read the files; what it lacks is inferred. */
  spec: Readonly<Record<string, unknown>>;
}

/** Stores a dataset. `onProgress` is told the share that has been sent, from 0 to 1. */
export function upload(
  { train, validation, name, spec }: Parts,
  key: string,
  onProgress: (share: number) => void,
): Promise<Schemas["DatasetView"]> {
  const form = new FormData();
  form.append("train", train);
  if (validation) form.append("validation", validation);
  if (name) form.append("name", name);
  form.append("spec", JSON.stringify(spec));
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 1);
    request.onerror = () => {
      noteSilence();
      reject(new ConnectionLost());
    };
    request.open("POST", "./v1/datasets");
    const sent = session.get().key;
    if (sent) request.setRequestHeader("Authorization", `Bearer ${sent}`);
    request.setRequestHeader("Idempotency-Key", key);
    request.onload = () => {
      noteAnswer();
      if (request.status < 300) return resolve(JSON.parse(request.responseText) as Schemas["DatasetView"]);
      void problemOf(new Response(request.responseText, { status: request.status })).then((problem) => {
        if (problem.status === 401) refuseKey(sent, problem);
        reject(new Problem(problem));
      });
    };
    request.send(form);
  });
}
