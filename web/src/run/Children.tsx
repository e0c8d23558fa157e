import { useCallback } from "react";
import { api } from "../api/client";
import { usePolled, type Sending } from "../api/usePolled";
import { address } from "../app/router";
import { Failure } from "../ui/Failure";
import { Progress, Status, Took } from "../ui/JobState";
import type { PartProps } from "../kinds/parts";

const SHOWN = 50;

/** The runs of a comparison, each with how far it is. */
export function Children({ job }: PartProps) {
  const ask = useCallback(
    (sending: Sending) => {
      const query = { parent: [job.id], limit: SHOWN };
      return api.GET("/v1/jobs", { params: { query }, ...sending });
    },
    [job.id],
  );
  const { data, error } = usePolled(ask, () => (job.terminal ? 15000 : 3000));
  const children = data?.data ?? [];
  return (
    <section className="card">
      <h2>Its runs</h2>
      <Failure error={error} />
      <div className="scroll" tabIndex={0} role="region" aria-label="Its runs">
        <table>
          <thead>
            <tr>
              <th scope="col">Run</th>
              <th scope="col">Status</th>
              <th scope="col">Progress</th>
            </tr>
          </thead>
          <tbody>
            {children.map((child) => (
              <tr key={child.id}>
                <td>
                  <a href={address(["runs", child.id])}>{child.name ?? child.id}</a>
                </td>
                <td>
                  <Status job={child} />
                </td>
                <td>
                  {child.terminal ? <Took job={child} /> : <Progress job={child} />}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {data?.has_more && (
        <p>
          <a href={address(["runs"], new URLSearchParams({ parent: job.id }))}>All of them</a>
        </p>
      )}
    </section>
  );
}
