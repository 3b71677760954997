// What `make charts` bundles of Apache ECharts: only the charts that the page draws.
import { init, use } from "echarts/core";
import { BarChart, LineChart, PieChart } from "echarts/charts";
import { AriaComponent, GridComponent, MarkLineComponent, TooltipComponent } from "echarts/components";
import { LabelLayout } from "echarts/features";
import { SVGRenderer } from "echarts/renderers";

use([
  AriaComponent, BarChart, GridComponent, LabelLayout, LineChart, MarkLineComponent, PieChart, SVGRenderer,
  TooltipComponent,
]);

export { init };
