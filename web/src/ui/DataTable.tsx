import type { ReactNode } from "react";

export interface Row {
  id: string;
  cells: readonly ReactNode[];
}

interface Props {
  title: string;
  columns: readonly string[];
  rows: readonly Row[];
  /** What to say where there is no row. */
  none: string;
}

/** A table that scrolls sideways where the screen is narrow. */
export function DataTable({ title, columns, rows, none }: Props) {
  if (rows.length === 0) return <p className="muted">{none}</p>;
  return (
    <div className="scroll" tabIndex={0} role="region" aria-label={title}>
      <table>
        <thead>
          <tr>
            {columns.map((column) => (
              <th scope="col" key={column}>
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ id, cells }) => (
            <tr key={id}>
              {cells.map((cell, index) => (
                <td key={index}>{cell}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
