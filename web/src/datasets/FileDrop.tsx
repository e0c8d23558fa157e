import { useId, useState, type DragEvent } from "react";
import { bytes } from "../ui/format";

interface Props {
  label: string;
  file: File | null;
  onChange: (file: File | null) => void;
}

/** A file by choosing it or by dropping it here. */
export function FileDrop({ label, file, onChange }: Props) {
  const id = useId();
  const [over, setOver] = useState(false);
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    const dropped = event.dataTransfer.files[0];
    if (dropped) onChange(dropped);
  };
  const hover = (event: DragEvent) => {
    event.preventDefault(); // else the browser opens what is dropped
    setOver(true);
  };
  return (
    <div
      className={over ? "drop field over" : "drop field"}
      onDragOver={hover}
      onDragLeave={() => setOver(false)}
      onDrop={drop}
    >
      <label htmlFor={id}>{label}</label>
      <input
        id={id}
        type="file"
        accept=".csv,.tsv,.jsonl,.ndjson,.json,.parquet,.gz,.zst"
        onChange={(event) => onChange(event.target.files?.[0] ?? null)}
      />
      <small className="muted">{file ? `${file.name}, ${bytes(file.size)}` : "Choose a file, or drop it here."}</small>
    </div>
  );
}
