import { useState } from "react";
import { send, type Schemas } from "../../../api/client";
import { describe, type ProblemDocument } from "../../../api/problem";
import { session } from "../../../api/session";
import { useStore } from "../../../api/store";
import { ProblemBox } from "../../../ui/ProblemBox";

interface Props {
  checkpoint: Schemas["CheckpointView"];
}

/**
 * Downloads a checkpoint's archive. A link cannot send an API key, so where the service wants one
 * the archive is read here first, and then saved.
 */
export function DownloadButton({ checkpoint }: Props) {
  const { key } = useStore(session);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ProblemDocument | null>(null);
  const address = `./v1/checkpoints/${checkpoint.id}/archive`;
  const label = `Download the checkpoint at step ${checkpoint.step}`;
  if (key === null) {
    return (
      <a className="button" href={address} download={`${checkpoint.id}.tar`} aria-label={label}>
        Download
      </a>
    );
  }
  const download = async () => {
    setBusy(true);
    setProblem(null);
    try {
      const answer = await send(new Request(address));
      save(await answer.blob(), `${checkpoint.id}.tar`);
    } catch (error) {
      setProblem(describe(error));
    }
    setBusy(false);
  };
  return (
    <>
      <button disabled={busy} aria-label={label} onClick={() => void download()}>
        {busy ? "Downloading …" : "Download"}
      </button>
      {problem && <ProblemBox problem={problem} />}
    </>
  );
}

function save(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  // Once the browser has taken it over; it reads the content after this task.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
