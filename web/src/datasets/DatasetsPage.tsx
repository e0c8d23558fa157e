import { useCallback, useState } from "react";
import { api } from "../api/client";
import { usePolled, type Sending } from "../api/usePolled";
import { address, go } from "../app/router";
import "../form/form.css";
import { DataTable } from "../ui/DataTable";
import { Failure } from "../ui/Failure";
import { bytes, wholeNumber } from "../ui/format";
import { Moment } from "../ui/Moment";
import { Pager } from "../ui/Pager";
import { useTitle } from "../ui/useTitle";
import { UploadForm } from "./UploadForm";

const EVERY_MILLISECONDS = 10000;

export default function DatasetsPage() {
  useTitle("Datasets");
  const [cursor, setCursor] = useState<string>();
  const ask = useCallback(
    (sending: Sending) => {
      const query = { limit: 50, ...(cursor ? { cursor } : {}) };
      return api.GET("/v1/datasets", { params: { query }, ...sending });
    },
    [cursor],
  );
  const { data, error } = usePolled(ask, () => EVERY_MILLISECONDS);
  const rows = (data?.data ?? []).map((dataset) => ({
    id: dataset.id,
    cells: [
      <a href={address(["datasets", dataset.id])}>{dataset.name ?? dataset.source ?? dataset.id}</a>,
      dataset.problem.replaceAll("_", " "),
      Object.entries(dataset.rows)
        .map(([split, count]) => `${split} ${wholeNumber(count)}`)
        .join(", "),
      bytes(dataset.bytes),
      <Moment at={dataset.created_at} />,
      <code>{dataset.id}</code>,
    ],
  }));
  return (
    <>
      <h1>Datasets</h1>
      <Failure error={error} />
      <section className="card">
        {data && (
          <DataTable
            title="Datasets"
            columns={["Name", "Problem", "Rows", "Size", "Stored", "Id"]}
            rows={rows}
            none="No dataset is stored yet."
          />
        )}
        <Pager cursor={cursor} next={data?.next_cursor} onMove={setCursor} />
      </section>
      <section className="card" aria-labelledby="upload-title">
        <h2 id="upload-title">Upload one</h2>
        <UploadForm onStored={({ id }) => go(address(["datasets", id]))} />
      </section>
    </>
  );
}
